//! The split pattern of nanochat, written by hand: same pieces as the regular expression, without an engine.
//!
//! The pattern, with k digits at most in a piece:
//!
//! ```text
//! '(?i:[sdmt]|ll|ve|re) | [^\r\n\p{L}\p{N}]?+\p{L}+ | \p{N}{1,k} | ?[^\s\p{L}\p{N}]++[\r\n]* | \s*[\r\n] | \s+(?!\S) | \s+
//! ```
//!
//! Each piece depends on nothing to its left, and every byte falls into exactly one piece.

#[cfg(target_arch = "x86_64")]
use crate::simd::x86;
use crate::unicode::{Class, ascii_class, class_of};

/// The largest number of digits in one piece: 2 for nanochat, 3 in GPT-4's style, 1 for a token per digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splitter {
    /// Digits of any script, counted in characters; at least 1.
    pub max_digits: usize,
}

impl Splitter {
    /// Calls `found(start, end)` for every piece of `text`, left to right, by the fastest way this processor has.
    #[allow(unsafe_code)]
    #[inline]
    pub fn for_each(&self, text: &str, found: impl FnMut(usize, usize)) {
        #[cfg(target_arch = "x86_64")]
        if x86::usable() {
            // SAFETY: the processor has the instructions that this function is compiled for.
            return unsafe { x86::pieces(*self, text, found) };
        }
        self.for_each_scalar(text, found);
    }

    /// The same without vector instructions.
    pub fn for_each_scalar(&self, text: &str, mut found: impl FnMut(usize, usize)) {
        let mut start = 0;
        while start < text.len() {
            let end = self.piece_end(text, start);
            found(start, end);
            start = end;
        }
    }

    /// Where the piece that starts at byte `start` (inside `text`, on a character) ends.
    pub fn piece_end(&self, text: &str, start: usize) -> usize {
        let (class, width) = class_at(text, start);
        let second = start + width;
        let bytes = text.as_bytes();
        if bytes[start] == b'\''
            && let Some(length) = contraction(&bytes[second..])
        {
            return second + length;
        }
        match class {
            Class::Letter => skip(text, second, Class::Letter),
            Class::Number => self.number_end(text, second),
            Class::Newline => space_end(text, start),
            _ => {
                let next = (second < text.len()).then(|| class_at(text, second).0);
                match (class, next) {
                    (_, Some(Class::Letter)) => skip(text, second, Class::Letter),
                    (Class::Other, _) => symbols_end(text, second),
                    (_, Some(Class::Other)) if bytes[start] == b' ' => symbols_end(text, second),
                    _ => space_end(text, start),
                }
            }
        }
    }

    fn number_end(&self, text: &str, mut at: usize) -> usize {
        for _ in 1..self.max_digits {
            match next_class(text, at) {
                Some((Class::Number, width)) => at += width,
                _ => break,
            }
        }
        at
    }
}

/// Class and width in bytes of the character at byte `at`.
fn class_at(text: &str, at: usize) -> (Class, usize) {
    let byte = text.as_bytes()[at];
    if byte < 0x80 {
        return (ascii_class(byte), 1);
    }
    let c = text[at..].chars().next().expect("a character starts here");
    (class_of(c), c.len_utf8())
}

fn next_class(text: &str, at: usize) -> Option<(Class, usize)> {
    (at < text.len()).then(|| class_at(text, at))
}

/// First byte at or after `at` whose character is not of `class`.
fn skip(text: &str, mut at: usize, class: Class) -> usize {
    while let Some((found, width)) = next_class(text, at)
        && found == class
    {
        at += width;
    }
    at
}

/// A run of symbols takes the line breaks behind it along.
fn symbols_end(text: &str, at: usize) -> usize {
    skip(text, skip(text, at, Class::Other), Class::Newline)
}

/// Length of a contraction's letters at the start of `rest`, which follows an apostrophe.
pub(crate) fn contraction(rest: &[u8]) -> Option<usize> {
    let lower = |i: usize| rest.get(i).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b's' | b'd' | b'm' | b't', _) => Some(1),
        (b'l', Some(b'l')) | (b'v' | b'r', Some(b'e')) => Some(2),
        // Unicode case folding makes the long s (U+017F, bytes C5 BF) an s.
        (0xc5, Some(0xbf)) => Some(2),
        _ => None,
    }
}

/// End of a piece of white space that starts at `start`.
fn space_end(text: &str, start: usize) -> usize {
    let mut at = start;
    let mut last = start; // where the last character of the run starts
    let mut after_newline = None;
    while let Some((class, width)) = next_class(text, at)
        && class.is_space()
    {
        last = at;
        at += width;
        if class == Class::Newline {
            after_newline = Some(at);
        }
    }
    match after_newline {
        Some(end) => end,
        // The last blank before a word is left to the word.
        None if at < text.len() && last > start => last,
        None => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row is a text cut at its `|`, for at most two digits.
    const ROWS: &[&str] = &[
        "I|'m",
        "don|'t",
        "x|'s|x",
        "'ll|ama",
        "'T|is",
        "''|s",
        " '|s",
        "\t|'s",
        "x|'ſ|x",
        "x|’s",
        "x|'RE|x",
        "'vE",
        "'lx",
        "_foo",
        "__|foo",
        "\u{a0}foo",
        ".a",
        "..|a",
        "foo| bar",
        "foo| | bar",
        "foo|  | bar",
        "\t|\tfoo",
        " |1",
        " | |12",
        "12|34|56",
        "1|,|00|0",
        "\u{661}\u{662}|\u{663}",
        "\u{bd}1",
        "中文|12|3",
        "!!\n\n",
        "!!\n| \n",
        "!!| \n",
        " !!",
        "  |\t|!",
        "foo| \n|  ",
        "foo| \n  \n",
        "  \n\n| | foo",
        "\r\r| x",
        "a|\r\n|b",
        " \n|\u{a0}x",
        "\u{a0}|\u{a0}|!",
        " |\u{a0}|!",
        "\u{85}\n",
        "a|\u{85}b",
        "e|\u{301}\u{301}",
        "\u{301}a",
        "\u{200b}foo",
        "\u{2028}|\u{2028}x",
        "\u{3000}中文",
        " 😀",
        "   ",
        "\n",
        "a",
    ];

    fn split(text: &str, max_digits: usize) -> Vec<&str> {
        let mut pieces = Vec::new();
        Splitter { max_digits }.for_each_scalar(text, |start, end| pieces.push(&text[start..end]));
        pieces
    }

    #[test]
    fn known_splits() {
        for row in ROWS {
            let want: Vec<&str> = row.split('|').collect();
            assert_eq!(split(&want.concat(), 2), want, "{row:?}");
        }
        assert_eq!(split("", 2), Vec::<&str>::new());
    }

    /// Texts drawn from characters that the rules are about, short and around the width of a window.
    fn drawn(seed: u64, alphabet: &[char]) -> String {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize
        };
        let length = next() % 200;
        let habit = next() % 4; // how often a character is repeated
        let mut text = String::new();
        while text.len() < length {
            let c = alphabet[next() % alphabet.len()];
            for _ in 0..=(if next() % 4 < habit { next() % 9 } else { 0 }) {
                text.push(c);
            }
        }
        text
    }

    #[test]
    fn windows_cut_as_single_characters_do() {
        let hot: Vec<char> =
            "'stdmlvre STDMLVREabc   \t\r\n\n\u{b}.,!-_0123456789é中\u{a0}ſ\u{661}😀\u{301}".chars().collect();
        let plain = &hot[..hot.len() - 7];
        let mut wide = String::new();
        for seed in 0..60_000 {
            let text = drawn(seed, if seed % 3 == 0 { &hot } else { plain });
            for max_digits in [1, 2, 3] {
                let splitter = Splitter { max_digits };
                let (mut fast, mut slow) = (Vec::new(), Vec::new());
                splitter.for_each(&text, |start, end| fast.push((start, end)));
                splitter.for_each_scalar(&text, |start, end| slow.push((start, end)));
                assert_eq!(fast, slow, "{text:?} {max_digits}");
            }
            if wide.len() < 1 << 20 {
                wide.push_str(&text);
            }
        }
        let splitter = Splitter { max_digits: 2 };
        let (mut fast, mut slow) = (Vec::new(), Vec::new());
        splitter.for_each(&wide, |start, end| fast.push((start, end)));
        splitter.for_each_scalar(&wide, |start, end| slow.push((start, end)));
        assert_eq!(fast, slow);
    }

    #[test]
    fn digits_per_piece() {
        assert_eq!(split("12345", 1), ["1", "2", "3", "4", "5"]);
        assert_eq!(split("12345", 2), ["12", "34", "5"]);
        assert_eq!(split("12345", 3), ["123", "45"]);
    }
}
