//! Walks over the nodes: an order in which each comes after what it depends on, and the shortest way around a cycle.

use std::collections::{BTreeSet, HashMap, VecDeque};

use petgraph::graph::DiGraph;

use super::node::{Node, NodeIndex};

/// Edges go from a node to what it depends on.
pub(super) type Nodes<'c> = DiGraph<Node<'c>, (), u32>;

/// All nodes, each after what it depends on.
pub(super) fn topological(nodes: &Nodes<'_>) -> Vec<NodeIndex> {
    // petgraph sorts dependants first, since edges go to dependencies
    let mut order = petgraph::algo::toposort(nodes, None).unwrap_or_default();
    order.reverse();
    order
}

/// The shortest cycle through `start` within a component, from `start` on.
pub(super) fn shortest_cycle(nodes: &Nodes<'_>, start: NodeIndex, inside: &BTreeSet<NodeIndex>) -> Vec<NodeIndex> {
    let mut came_from: HashMap<NodeIndex, NodeIndex> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        let mut next: Vec<NodeIndex> = nodes.neighbors(at).filter(|index| inside.contains(index)).collect();
        next.sort_by_key(|index| nodes[*index].owner.clone());
        for to in next {
            if to == start {
                let mut path = vec![at];
                while let Some(before) = came_from.get(path.last().unwrap_or(&at)) {
                    path.push(*before);
                }
                path.reverse();
                return path;
            }
            if to != start && !came_from.contains_key(&to) {
                came_from.insert(to, at);
                queue.push_back(to);
            }
        }
    }
    vec![start]
}
