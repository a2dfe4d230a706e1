//! Piece boundaries of ASCII text in GPT-4's style, 64 bytes at a time: bytes become bit masks by class, and masks become boundaries.
//!
//! A window always begins at the start of a piece, and no piece depends on what is to its left; so only what lies
//! inside the window decides. Whatever its end leaves open is looked at again by the next window, which begins at the
//! last boundary found. [`crate::split`] is the oracle: both must cut alike (see `tests`).
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use crate::split::{contraction, gpt4_end};

    /// Bytes looked at together: one bit each.
    pub(crate) const WINDOW: usize = 64;
    const FEWEST: u32 = 16; // with fewer ASCII bytes in front, masks cost more than they find

    /// True if this processor has what [`pieces`] is compiled for.
    pub(crate) fn usable() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }

    /// One bit per byte of a window, by class.
    struct Masks {
        letter: u64,
        digit: u64,
        newline: u64,
        blank: u64, // tab, vertical tab, form feed
        space: u64,
        apostrophe: u64,
        not_ascii: u64,
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn classify(window: &[u8; WINDOW]) -> Masks {
        let (low, high) = window.split_at(32);
        // SAFETY: both halves are 32 readable bytes; the load asks for no alignment.
        let (low, high) =
            unsafe { (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())) };
        let mask = |test: &dyn Fn(__m256i) -> __m256i| -> u64 {
            let bits = |v| u64::from(_mm256_movemask_epi8(test(v)) as u32);
            bits(low) | bits(high) << 32
        };
        let set = |byte: u8| _mm256_set1_epi8(byte as i8);
        let within = |v, first: u8, count: u8| {
            let shifted = _mm256_sub_epi8(v, set(first));
            _mm256_cmpeq_epi8(_mm256_min_epu8(shifted, set(count - 1)), shifted)
        };
        let is = |v, byte: u8| _mm256_cmpeq_epi8(v, set(byte));
        let newline = mask(&|v| _mm256_or_si256(is(v, b'\n'), is(v, b'\r')));
        Masks {
            letter: mask(&|v| within(_mm256_or_si256(v, set(0x20)), b'a', 26)),
            digit: mask(&|v| within(v, b'0', 10)),
            newline,
            blank: mask(&|v| within(v, 9, 5)) & !newline,
            space: mask(&|v| is(v, b' ')),
            apostrophe: mask(&|v| is(v, b'\'')),
            not_ascii: mask(&|v| v),
        }
    }

    /// Bits of `run` that lie in a run whose first bit is in `heads`.
    #[inline]
    fn flooded(run: u64, heads: u64) -> u64 {
        run & !run.wrapping_add(heads & run)
    }

    /// Starts of pieces inside a window that begins at one, and that are certain whatever follows; bit 0 among them.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn starts(max_digits: usize, masks: &Masks, rest: &[u8]) -> u64 {
        let limit = masks.not_ascii.trailing_zeros();
        let valid = if limit == 64 { u64::MAX } else { (1 << limit) - 1 };
        let (letter, digit) = (masks.letter & valid, masks.digit & valid);
        let (newline, space) = (masks.newline & valid, masks.space & valid);
        let blank = (masks.blank & valid) | space;
        let other = valid & !(letter | digit | newline | blank);

        let other_start = other & !(other << 1) & !(space << 1);
        let letter_start = letter & !(letter << 1) & !(blank << 1) & !(other_start << 1);
        let absorbed = flooded(newline, other << 1); // line breaks behind symbols go with them
        let white = (newline | blank) & !absorbed;
        let white_start = white & !(white << 1);
        let last_blank = blank & white & !(white >> 1); // the last blank before a word is left to the word
        let mut starts = other_start | letter_start | white_start | last_blank | digit_starts(max_digits, digit) | 1;

        // Behind the last line break of white space something new begins, but not behind an earlier one.
        let mut behind = ((newline & white) << 1) & blank;
        while behind != 0 {
            let at = behind.trailing_zeros();
            let length = (!(blank >> at)).trailing_zeros();
            let next = at + length;
            if next >= 64 || newline >> next & 1 == 0 {
                starts |= 1 << at;
            }
            behind &= behind - 1;
        }
        let mut quotes = masks.apostrophe & starts;
        while quotes != 0 {
            let at = quotes.trailing_zeros() as usize;
            if let Some(length) = contraction(&rest[at + 1..]) {
                let next = at + 1 + length;
                if next < 64 {
                    starts |= 1 << next;
                }
            }
            quotes &= quotes - 1;
        }
        starts &= valid | 1;
        // White space that reaches the end of what is known may go on: only its beginning is certain.
        if limit > 0 && white >> (limit - 1) & 1 == 1 {
            let begin = 63 - white_start.leading_zeros();
            starts &= u64::MAX >> (63 - begin);
        }
        starts
    }

    /// Starts within runs of digits: each run is cut into pieces of `max_digits`.
    #[inline]
    fn digit_starts(max_digits: usize, digit: u64) -> u64 {
        let mut step = digit & !(digit << 1);
        let Ok(width @ 1..64) = u32::try_from(max_digits) else { return step };
        let mut whole = digit; // digits that are at least `width` behind the start of their run
        for back in 1..=width {
            whole &= digit << back.min(63);
        }
        let mut starts = step;
        loop {
            step = (step << width) & whole;
            if step == 0 {
                return starts;
            }
            starts |= step;
        }
    }

    /// Calls `found(start, end)` for every piece, left to right.
    ///
    /// The caller has asked [`usable`].
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn pieces(max_digits: usize, text: &str, mut found: impl FnMut(usize, usize)) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(window) = bytes.get(at..).and_then(|rest| rest.first_chunk::<WINDOW>()) {
            let masks = classify(window);
            let mut boundaries = 0;
            if masks.not_ascii.trailing_zeros() >= FEWEST {
                boundaries = starts(max_digits, &masks, &bytes[at..]) & !1;
            }
            if boundaries == 0 {
                let end = gpt4_end(max_digits, text, at);
                found(at, end);
                at = end;
                continue;
            }
            let base = at;
            while boundaries != 0 {
                let next = base + boundaries.trailing_zeros() as usize;
                found(at, next);
                at = next;
                boundaries &= boundaries - 1;
            }
        }
        while at < bytes.len() {
            let end = gpt4_end(max_digits, text, at);
            found(at, end);
            at = end;
        }
    }
}

/// Asks the processor to fetch what `slice[index]` stands on; nothing happens where that is not known or outside.
#[inline]
pub(crate) fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(place) = slice.get(index) {
        // SAFETY: the address is that of a live element; a prefetch reads nothing and cannot fault.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}
