//! `--chmod`: octal, or symbolic as chmod(1) has it.

/// A mode to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chmod {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// One of the parts between commas: whose bits, and what happens to them in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    who: u32,
    actions: Vec<(char, String)>,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl Chmod {
    /// Reads what the Dockerfile says, which was checked when it was resolved.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(mode) = u32::from_str_radix(text, 8) {
            return Some(Self::Octal(mode & 0o7777));
        }
        let clause = |text: &str| {
            let split = text.find(['+', '-', '='])?;
            let (who, rest) = text.split_at(split);
            let who = who.chars().fold(0, |bits, char| {
                bits | match char {
                    'u' => USER,
                    'g' => GROUP,
                    'o' => OTHER,
                    _ => 0o7777,
                }
            });
            let mut actions: Vec<(char, String)> = Vec::new();
            for char in rest.chars() {
                match (char, actions.last_mut()) {
                    ('+' | '-' | '=', _) => actions.push((char, String::new())),
                    (char, Some((_, letters))) => letters.push(char),
                    (_, None) => return None,
                }
            }
            Some(Clause { who: if who == 0 { 0o7777 } else { who }, actions })
        };
        text.split(',').map(clause).collect::<Option<_>>().map(Self::Symbolic)
    }

    /// The mode that comes out of `mode`.
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        let clauses = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(clauses) => clauses,
        };
        let mut mode = mode & 0o7777;
        for Clause { who, actions } in clauses {
            for (action, letters) in actions {
                let copied = |bits: u32| (bits << 6 | bits << 3 | bits) & 0o777;
                let bits = letters.chars().fold(0, |bits, letter| {
                    bits | match letter {
                        'r' => 0o444,
                        'w' => 0o222,
                        'x' => 0o111,
                        'X' if is_folder || mode & 0o111 != 0 => 0o111,
                        's' => 0o6000,
                        't' => 0o1000,
                        'u' => copied(mode >> 6 & 7),
                        'g' => copied(mode >> 3 & 7),
                        'o' => copied(mode & 7),
                        _ => 0,
                    }
                }) & who;
                match action {
                    '+' => mode |= bits,
                    '-' => mode &= !bits,
                    // set-id bits of folders are only taken away by name
                    _ => mode = mode & !(who & if is_folder { 0o1777 } else { 0o7777 }) | bits,
                }
            }
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_come_out_as_chmod_has_them() {
        for (text, mode, is_folder, expected) in [
            ("755", 0o644, false, 0o755),
            ("4755", 0o644, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("u+x,g-r", 0o644, false, 0o704),
            ("a=rX", 0o750, false, 0o555),
            ("a=rX", 0o640, false, 0o444),
            ("go=rX", 0o700, true, 0o755),
            ("u=rwx,go=", 0o644, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("+t", 0o755, true, 0o1755),
            ("u+s", 0o755, false, 0o4755),
            ("u+w-x", 0o555, false, 0o655),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, is_folder), expected, "{text} of {mode:o}");
        }
    }
}
