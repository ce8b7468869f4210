//! The ready-queue: which node may start next. Pure: no I/O, no engine, no clock, no threads.
//!
//! Every node reaches exactly one terminal state; none starts before its dependencies are done; of the
//! ready ones the longest path goes first. Whether a popped node is fresh is decided by who pops it.

use std::collections::BinaryHeap;

/// Index of a node in the queue, `0..len`.
pub type NodeIndex = usize;

/// Where a node stands. Moved only by [`Queue::transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for this many dependencies.
    Waiting(usize),
    /// All dependencies are done well.
    Ready,
    /// Popped.
    Running,
    /// Done well.
    Good,
    /// Done badly: failed, blocked or cancelled.
    Bad,
    /// Will not run, because `cause` is bad.
    Skipped {
        /// The node whose end doomed this one; never itself a skipped one.
        cause: NodeIndex,
    },
}

impl State {
    /// Whether it can change no more (but by [`Queue::reopen`]).
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Good | Self::Bad | Self::Skipped { .. })
    }
}

/// The queue over a DAG.
#[derive(Debug)]
pub struct Queue {
    states: Vec<State>,
    dependencies: Vec<Vec<NodeIndex>>,
    dependants: Vec<Vec<NodeIndex>>,
    /// Length of the longest path from the node to an end, in the given weights.
    priority: Vec<u64>,
    ready: BinaryHeap<(u64, std::cmp::Reverse<NodeIndex>)>,
    /// Running nodes of which something they stand on was put back since they started.
    overtaken: Vec<bool>,
    running: usize,
    unfinished: usize,
}

impl Queue {
    /// A queue over `dependencies[node]`, with `weights[node]` the expected time of each (any unit).
    ///
    /// # Panics
    /// Where the dependencies are no DAG, or lengths differ: the graph room guarantees both.
    pub fn new(dependencies: Vec<Vec<NodeIndex>>, weights: &[u64]) -> Self {
        let len = dependencies.len();
        assert_eq!(len, weights.len(), "one weight a node");
        let mut dependants = vec![Vec::new(); len];
        for (node, needed) in dependencies.iter().enumerate() {
            for dependency in needed {
                dependants[*dependency].push(node);
            }
        }
        let mut open: Vec<usize> = dependants.iter().map(Vec::len).collect();
        let mut ends: Vec<NodeIndex> = (0..len).filter(|node| open[*node] == 0).collect();
        let mut priority = vec![0; len];
        let mut seen = 0;
        while let Some(node) = ends.pop() {
            seen += 1;
            priority[node] = weights[node].max(1) + dependants[node].iter().map(|after| priority[*after]).max().unwrap_or(0);
            for dependency in &dependencies[node] {
                open[*dependency] -= 1;
                if open[*dependency] == 0 {
                    ends.push(*dependency);
                }
            }
        }
        assert_eq!(seen, len, "the dependencies have a cycle");
        let mut queue = Self {
            states: dependencies.iter().map(|needed| State::Waiting(needed.len())).collect(),
            dependencies,
            dependants,
            priority,
            ready: BinaryHeap::new(),
            overtaken: vec![false; len],
            running: 0,
            unfinished: len,
        };
        for node in 0..len {
            if queue.states[node] == State::Waiting(0) {
                queue.transition(node, State::Ready);
            }
        }
        queue
    }

    /// The state of a node.
    pub fn state(&self, node: NodeIndex) -> State {
        self.states[node]
    }

    /// Number of popped and not finished nodes.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether every node is terminal.
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// Ready nodes, in no promised order.
    pub fn ready(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        self.ready.iter().map(|(_, node)| node.0).filter(|node| self.states[*node] == State::Ready)
    }

    /// Takes the ready node with the longest path ahead; of equals the first.
    pub fn pop(&mut self) -> Option<NodeIndex> {
        while let Some((_, std::cmp::Reverse(node))) = self.ready.pop() {
            if self.states[node] == State::Ready {
                self.transition(node, State::Running);
                return Some(node);
            }
        }
        None
    }

    /// Ends a running node, and returns the nodes that are skipped by that, each with its cause.
    pub fn finish(&mut self, node: NodeIndex, good: bool) -> Vec<(NodeIndex, NodeIndex)> {
        debug_assert_eq!(self.states[node], State::Running);
        self.transition(node, if good { State::Good } else { State::Bad });
        if good {
            for dependant in self.dependants[node].clone() {
                if let State::Waiting(open) = self.states[dependant] {
                    self.transition(dependant, if open == 1 { State::Ready } else { State::Waiting(open - 1) });
                }
            }
            return Vec::new();
        }
        let mut skipped = Vec::new();
        let mut doomed = self.dependants[node].clone();
        while let Some(dependant) = doomed.pop() {
            if matches!(self.states[dependant], State::Waiting(_)) {
                self.transition(dependant, State::Skipped { cause: node });
                skipped.push((dependant, node));
                doomed.extend(&self.dependants[dependant]);
            }
        }
        skipped.sort_unstable();
        skipped
    }

    /// Ends all that has not started: nodes that wait or are ready become bad. Returns them.
    pub fn stop(&mut self) -> Vec<NodeIndex> {
        let left: Vec<NodeIndex> =
            (0..self.states.len()).filter(|node| matches!(self.states[*node], State::Waiting(_) | State::Ready)).collect();
        for node in &left {
            self.transition(*node, State::Bad);
        }
        left
    }

    /// Puts a node that is done well, and all that stands on it and is done well or has not started, back to the start:
    /// its result is needed and nowhere to be had. Returns the nodes put back; none where the node is not done well, since it is then
    /// on its way again already. `asker`, which found out, goes back too when it is reached; other running nodes go on and finish.
    pub fn reopen(&mut self, node: NodeIndex, asker: NodeIndex) -> Vec<NodeIndex> {
        let mut reopened = Vec::new();
        let mut todo = if self.states[node] == State::Good { vec![node] } else { Vec::new() };
        while let Some(next) = todo.pop() {
            let back = match self.states[next] {
                State::Good | State::Ready | State::Waiting(_) => true,
                State::Running => {
                    self.overtaken[next] |= next != asker;
                    next == asker
                }
                State::Bad | State::Skipped { .. } => false,
            };
            if back && !reopened.contains(&next) {
                reopened.push(next);
                todo.extend(&self.dependants[next]);
            }
        }
        for next in &reopened {
            self.transition(*next, State::Waiting(usize::MAX));
        }
        for next in &reopened {
            self.wait(*next);
        }
        reopened.sort_unstable();
        reopened
    }

    /// Whether something that a running node stands on was put back since it started: what it makes is of yesterday.
    pub fn is_overtaken(&self, node: NodeIndex) -> bool {
        self.overtaken[node] || self.dependencies[node].iter().any(|dependency| self.states[*dependency] != State::Good)
    }

    /// Puts a running node back to wait for those of its dependencies that are not done well (any more).
    ///
    /// # Errors
    /// With the cause, where one of them is done badly: the node stays as it is, to be finished.
    pub fn put_back(&mut self, node: NodeIndex) -> Result<(), NodeIndex> {
        debug_assert_eq!(self.states[node], State::Running);
        for dependency in &self.dependencies[node] {
            match self.states[*dependency] {
                State::Bad => return Err(*dependency),
                State::Skipped { cause } => return Err(cause),
                State::Waiting(_) | State::Ready | State::Running | State::Good => {}
            }
        }
        self.wait(node);
        Ok(())
    }

    fn wait(&mut self, node: NodeIndex) {
        let open = self.dependencies[node].iter().filter(|dependency| self.states[**dependency] != State::Good).count();
        self.transition(node, if open == 0 { State::Ready } else { State::Waiting(open) });
    }

    /// The one place where a state changes.
    fn transition(&mut self, node: NodeIndex, to: State) {
        let from = std::mem::replace(&mut self.states[node], to);
        match (from.is_terminal(), to.is_terminal()) {
            (false, true) => self.unfinished -= 1,
            (true, false) => self.unfinished += 1,
            _ => {}
        }
        if from == State::Running {
            self.running -= 1;
        }
        match to {
            State::Running => {
                self.running += 1;
                self.overtaken[node] = false;
            }
            State::Ready => self.ready.push((self.priority[node], std::cmp::Reverse(node))),
            State::Waiting(_) | State::Good | State::Bad | State::Skipped { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A random DAG: each node depends on some with a smaller index; and which nodes fail.
    fn worlds() -> impl Strategy<Value = (Vec<Vec<NodeIndex>>, Vec<u64>, Vec<bool>, Vec<u8>)> {
        (1_usize..40).prop_flat_map(|len| {
            let edges: Vec<_> = (0..len).map(|node| proptest::collection::btree_set(0..node.max(1), 0..4.min(node + 1))).collect();
            (
                edges,
                proptest::collection::vec(0_u64..9, len),
                proptest::collection::vec(prop::bool::weighted(0.15), len),
                proptest::collection::vec(any::<u8>(), 400),
            )
                .prop_map(|(edges, weights, fails, choices)| {
                    let edges = edges.into_iter().enumerate().map(|(node, set)| set.into_iter().filter(|d| *d < node).collect()).collect();
                    (edges, weights, fails, choices)
                })
        })
    }

    fn longest(dependants: &[Vec<usize>], weights: &[u64], node: usize) -> u64 {
        weights[node].max(1) + dependants[node].iter().map(|after| longest(dependants, weights, *after)).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn every_node_ends_once_and_none_starts_early((edges, weights, fails, choices) in worlds()) {
            let len = edges.len();
            let mut dependants = vec![Vec::new(); len];
            for (node, needed) in edges.iter().enumerate() { for d in needed { dependants[*d].push(node); } }
            let mut queue = Queue::new(edges.clone(), &weights);
            let mut running: Vec<usize> = Vec::new();
            let mut ended = vec![0; len];
            let mut choices = choices.into_iter().cycle();
            while !queue.is_done() {
                let start = choices.next().unwrap_or(0) % 2 == 0 || running.is_empty();
                if start {
                    let best = queue.ready().map(|node| longest(&dependants, &weights, node)).max();
                    if let Some(node) = queue.pop() {
                        prop_assert_eq!(Some(longest(&dependants, &weights, node)), best);
                        prop_assert!(edges[node].iter().all(|d| queue.state(*d) == State::Good));
                        running.push(node);
                        continue;
                    }
                }
                prop_assert!(!running.is_empty(), "stuck");
                let node = running.swap_remove(usize::from(choices.next().unwrap_or(0)) % running.len());
                ended[node] += 1;
                for (skipped, cause) in queue.finish(node, !fails[node]) {
                    prop_assert_eq!(cause, node);
                    ended[skipped] += 1;
                }
            }
            prop_assert_eq!(queue.running(), 0);
            prop_assert!(ended.iter().all(|times| *times == 1), "{:?}", ended);
            for (node, needed) in edges.iter().enumerate() {
                let doomed = needed.iter().any(|d| queue.state(*d) != State::Good);
                prop_assert_eq!(matches!(queue.state(node), State::Skipped { .. }), doomed);
            }
        }

        #[test]
        fn a_reopened_node_runs_again_before_what_stands_on_it((edges, weights, _fails, choices) in worlds()) {
            let len = edges.len();
            let mut queue = Queue::new(edges.clone(), &weights);
            let mut choices = choices.into_iter().cycle();
            let mut reopens = 3;
            let mut order = Vec::new();
            while let Some(node) = queue.pop() {
                let missing = edges[node].get(usize::from(choices.next().unwrap_or(0)) % 3).copied();
                if let (Some(missing), true) = (missing, reopens > 0) {
                    reopens -= 1;
                    let back = queue.reopen(missing, node);
                    prop_assert!(back.contains(&missing) && back.contains(&node));
                    order.retain(|done| !back.contains(done));
                    continue;
                }
                prop_assert!(edges[node].iter().all(|d| order.contains(d)));
                order.push(node);
                queue.finish(node, true);
            }
            prop_assert!(queue.is_done());
            prop_assert_eq!(order.len(), len);
        }
    }

    proptest! {
        /// Many run at once; each may find that a result it stands on is lost, whatever has become of that node meanwhile.
        #[test]
        fn what_finds_a_loss_goes_back_or_ends((edges, weights, fails, choices) in worlds()) {
            let mut queue = Queue::new(edges.clone(), &weights);
            let mut choices = choices.into_iter().cycle();
            let mut choose = |among: usize| usize::from(choices.next().unwrap_or(0)) % among;
            let mut losses = 12;
            let mut running: Vec<usize> = Vec::new();
            while !queue.is_done() {
                if (choose(2) == 0 || running.is_empty())
                    && let Some(node) = queue.pop()
                {
                    running.push(node);
                    continue;
                }
                prop_assert!(!running.is_empty(), "stuck");
                let node = running.swap_remove(choose(running.len()));
                let missing = edges[node].get(choose(4)).copied().filter(|_| losses > 0);
                match missing {
                    Some(missing) => {
                        losses -= 1;
                        queue.reopen(missing, node);
                        if queue.state(node) == State::Running && queue.put_back(node).is_err() {
                            queue.finish(node, false);
                        }
                    }
                    None => drop(queue.finish(node, !fails[node])),
                }
            }
            prop_assert_eq!((queue.running(), running.len()), (0, 0));
        }
    }

    proptest! {
        #[test]
        fn what_is_good_at_the_end_was_made_after_what_it_stands_on((edges, weights, _fails, choices) in worlds()) {
            let len = edges.len();
            let mut queue = Queue::new(edges.clone(), &weights);
            let mut choices = choices.into_iter().cycle();
            let mut choose = |of: usize| usize::from(choices.next().unwrap_or(0)) % of;
            let (mut running, mut reopens, mut time) = (Vec::new(), 3, 0);
            let (mut started, mut ended) = (vec![0; len], vec![0; len]);
            while !queue.is_done() {
                if running.len() < 4 && choose(2) == 0 && let Some(node) = queue.pop() {
                    time += 1;
                    started[node] = time;
                    running.push(node);
                    continue;
                }
                if running.is_empty() {
                    if let Some(node) = queue.pop() {
                        time += 1;
                        started[node] = time;
                        running.push(node);
                    }
                    continue;
                }
                let node = running.swap_remove(choose(running.len()));
                time += 1;
                if queue.is_overtaken(node) {
                    prop_assert!(queue.put_back(node).is_ok());
                } else if let (Some(lost), true) = (edges[node].get(choose(5)), reopens > 0) {
                    reopens -= 1;
                    queue.reopen(*lost, node);
                } else {
                    ended[node] = time;
                    queue.finish(node, true);
                }
            }
            prop_assert_eq!(queue.running(), 0);
            for (node, needed) in edges.iter().enumerate() {
                prop_assert_eq!(queue.state(node), State::Good);
                prop_assert!(needed.iter().all(|below| ended[*below] < started[node]), "{} started on something older", node);
            }
        }
    }

    #[test]
    fn stop_ends_what_has_not_started() {
        let mut queue = Queue::new(vec![vec![], vec![0], vec![]], &[1, 1, 1]);
        assert_eq!(queue.pop(), Some(0));
        assert_eq!(queue.stop(), [1, 2]);
        assert!(queue.finish(0, true).is_empty());
        assert!(queue.is_done());
    }
}
