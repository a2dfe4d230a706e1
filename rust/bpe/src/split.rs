//! Split patterns written by hand: same pieces as the regular expression, without an engine.
//!
//! The style of GPT-4 and nanochat, with k digits at most in a piece:
//!
//! ```text
//! '(?i:[sdmt]|ll|ve|re) | [^\r\n\p{L}\p{N}]?+\p{L}+ | \p{N}{1,k} | ?[^\s\p{L}\p{N}]++[\r\n]* | \s*[\r\n] | \s+(?!\S) | \s+
//! ```
//!
//! That of GPT-2 is in [`crate::gpt2`]. Each piece depends on nothing to its left, and every byte falls into exactly one
//! piece.

use crate::gpt2;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86;
use crate::unicode::{Class, ascii_class, class_of};

/// One way to cut text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splitter {
    /// As GPT-4 and nanochat do.
    Gpt4 {
        /// The largest number of digits in one piece, of any script, counted in characters; at least 1. It is 2 for
        /// nanochat, 3 for GPT-4, 1 for a token per digit.
        max_digits: usize,
    },
    /// As GPT-2 does.
    Gpt2,
    /// Every text is one piece: whoever calls has cut it already.
    Whole,
}

/// A part of a text that is cut into the same pieces alone as with what is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The part.
    pub text: &'a str,
    /// True for the first part of each text.
    pub first: bool,
}

impl Splitter {
    /// Calls `found(start, end)` for every piece of `text`, left to right, by the fastest way this processor has.
    #[allow(unsafe_code)]
    #[inline]
    pub fn for_each(&self, text: &str, found: impl FnMut(usize, usize)) {
        #[cfg(target_arch = "x86_64")]
        if let Splitter::Gpt4 { max_digits } = *self
            && x86::usable()
        {
            // SAFETY: the processor has the instructions that this function is compiled for.
            return unsafe { x86::pieces(max_digits, text, found) };
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
    #[inline]
    pub fn piece_end(&self, text: &str, start: usize) -> usize {
        match *self {
            Splitter::Gpt4 { max_digits } => gpt4_end(max_digits, text, start),
            Splitter::Gpt2 => gpt2::piece_end(text, start),
            Splitter::Whole => text.len(),
        }
    }

    /// The texts, those of more than about `limit` bytes in parts, so that many threads can share one of them.
    pub fn parts<'a>(&self, texts: &[&'a str], limit: usize) -> Vec<Part<'a>> {
        let mut parts = Vec::with_capacity(texts.len());
        for text in texts {
            let (mut rest, mut first) = (*text, true);
            while rest.len() > limit
                && let Some(cut) = self.safe_cut(rest, limit)
            {
                let (text, others) = rest.split_at(cut);
                parts.push(Part { text, first });
                (rest, first) = (others, false);
            }
            parts.push(Part { text: rest, first });
        }
        parts
    }

    /// The first place at or behind byte `from` where a text may be cut without changing its pieces.
    ///
    /// No piece reaches from a letter or digit into white space, and what is to the left of a piece does not matter. Where
    /// words are not apart: behind a line break that ends its run of white space a piece ends, too; for GPT-2, which does
    /// not tell line breaks from blanks, only if the run is that one character.
    fn safe_cut(&self, text: &str, from: usize) -> Option<usize> {
        let bytes = text.as_bytes();
        if *self == Splitter::Whole {
            return None;
        }
        (from.max(2)..bytes.len()).find(|&at| {
            let (before, next) = (bytes[at - 1], bytes[at]);
            if before.is_ascii_alphanumeric() {
                return next.is_ascii() && ascii_class(next).is_space();
            }
            let alone = || bytes[at - 2].is_ascii() && !ascii_class(bytes[at - 2]).is_space();
            before == b'\n' && !class_at(text, at).0.is_space() && (*self != Splitter::Gpt2 || alone())
        })
    }
}

/// Where a piece in GPT-4's style ends.
pub(crate) fn gpt4_end(max_digits: usize, text: &str, start: usize) -> usize {
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
        Class::Number => number_end(max_digits, text, second),
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

fn number_end(max_digits: usize, text: &str, mut at: usize) -> usize {
    for _ in 1..max_digits {
        match next_class(text, at) {
            Some((Class::Number, width)) => at += width,
            _ => break,
        }
    }
    at
}

/// Class and width in bytes of the character at byte `at`.
pub(crate) fn class_at(text: &str, at: usize) -> (Class, usize) {
    let byte = text.as_bytes()[at];
    if byte < 0x80 {
        return (ascii_class(byte), 1);
    }
    let c = text[at..].chars().next().expect("a character starts here");
    (class_of(c), c.len_utf8())
}

pub(crate) fn next_class(text: &str, at: usize) -> Option<(Class, usize)> {
    (at < text.len()).then(|| class_at(text, at))
}

/// First byte at or after `at` whose character is not of `class`.
pub(crate) fn skip(text: &str, mut at: usize, class: Class) -> usize {
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
        Splitter::Gpt4 { max_digits }.for_each_scalar(text, |start, end| pieces.push(&text[start..end]));
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
                let splitter = Splitter::Gpt4 { max_digits };
                let (mut fast, mut slow) = (Vec::new(), Vec::new());
                splitter.for_each(&text, |start, end| fast.push((start, end)));
                splitter.for_each_scalar(&text, |start, end| slow.push((start, end)));
                assert_eq!(fast, slow, "{text:?} {max_digits}");
            }
            if wide.len() < 1 << 20 {
                wide.push_str(&text);
            }
        }
        let splitter = Splitter::Gpt4 { max_digits: 2 };
        let (mut fast, mut slow) = (Vec::new(), Vec::new());
        splitter.for_each(&wide, |start, end| fast.push((start, end)));
        splitter.for_each_scalar(&wide, |start, end| slow.push((start, end)));
        assert_eq!(fast, slow);
    }

    #[test]
    fn parts_are_cut_as_the_whole_is() {
        let hot: Vec<char> = "'stle ab9 \t\r\n\n.!é中\u{a0}\u{661}".chars().collect();
        let mut cuts = 0;
        for splitter in [Splitter::Gpt4 { max_digits: 2 }, Splitter::Gpt4 { max_digits: 3 }, Splitter::Gpt2] {
            for seed in 0..20_000 {
                let text = drawn(seed, &hot);
                let (mut whole, mut apart) = (Vec::new(), Vec::new());
                splitter.for_each(&text, |start, end| whole.push(&text[start..end]));
                let parts = splitter.parts(&[&text], 5);
                for part in &parts {
                    splitter.for_each(part.text, |start, end| apart.push(&part.text[start..end]));
                }
                assert_eq!(whole, apart, "{text:?} {splitter:?}");
                cuts += parts.len() - 1;
            }
        }
        assert!(cuts > 50_000);
        assert_eq!(Splitter::Whole.parts(&["a b\nc"], 1).len(), 1);
    }

    #[test]
    fn digits_per_piece() {
        assert_eq!(split("12345", 1), ["1", "2", "3", "4", "5"]);
        assert_eq!(split("12345", 2), ["12", "34", "5"]);
        assert_eq!(split("12345", 3), ["123", "45"]);
    }
}
