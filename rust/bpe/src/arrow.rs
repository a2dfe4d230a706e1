//! Text straight out of Arrow memory: the C data interface, read without a copy.
//!
//! Layout and names: <https://arrow.apache.org/docs/format/CDataInterface.html>. Nothing is taken over: whoever lends an
//! array keeps it, and releases it after the call.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

/// `struct ArrowSchema`, as far as it is read here.
#[repr(C)]
pub struct Schema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    num_children: i64,
    children: *mut *mut Schema,
    dictionary: *mut Schema,
    release: *const c_void,
    private_data: *mut c_void,
}

/// `struct ArrowArray`, as far as it is read here.
#[repr(C)]
pub struct Array {
    length: i64,
    null_count: i64,
    offset: i64,
    num_buffers: i64,
    num_children: i64,
    buffers: *const *const c_void,
    children: *mut *mut Array,
    dictionary: *mut Array,
    release: *const c_void,
    private_data: *mut c_void,
}

/// What is wrong with an array of texts.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither `utf8`, `large_utf8` nor `utf8_view`; the Arrow format string.
    Type(String),
    /// The row whose bytes are no UTF-8.
    Utf8(usize),
    /// Buffers that contradict each other.
    Layout,
}

/// The texts of an array, in order; nulls are left out.
///
/// # Safety
/// Both point to valid structs of the C data interface that belong together and outlive the result.
pub unsafe fn texts<'a>(schema: *const Schema, array: *const Array) -> Result<Vec<&'a str>, Fault> {
    // SAFETY: the caller promises valid structs.
    let (schema, array) = unsafe { (&*schema, &*array) };
    if schema.format.is_null() || schema.release.is_null() && cfg!(not(test)) {
        return Err(Fault::Layout); // given back already
    }
    // SAFETY: a format is a string that ends with a zero byte.
    let format = unsafe { CStr::from_ptr(schema.format) }.to_bytes();
    match format {
        // SAFETY: offsets of utf8 are i32.
        b"u" => unsafe { rows::<i32>(array) },
        // SAFETY: offsets of large_utf8 are i64.
        b"U" => unsafe { rows::<i64>(array) },
        // SAFETY: it is an array of views.
        b"vu" => unsafe { viewed_rows(array) },
        other => Err(Fault::Type(String::from_utf8_lossy(other).into_owned())),
    }
}

/// # Safety
/// As [`texts`], and `O` is the type of the array's offsets.
unsafe fn rows<'a, O: Copy + TryInto<usize>>(array: &Array) -> Result<Vec<&'a str>, Fault> {
    let (Ok(length), Ok(offset)) = (usize::try_from(array.length), usize::try_from(array.offset)) else {
        return Err(Fault::Layout);
    };
    if length == 0 {
        return Ok(Vec::new());
    }
    if array.num_buffers != 3 || array.buffers.is_null() {
        return Err(Fault::Layout);
    }
    // SAFETY: an array of texts has three buffers: validity, offsets, bytes.
    let (validity, offsets, bytes) = unsafe { (*array.buffers, *array.buffers.add(1), *array.buffers.add(2)) };
    if offsets.is_null() || !offsets.cast::<O>().is_aligned() {
        return Err(Fault::Layout);
    }
    // SAFETY: there is one offset more than rows, behind the ones that a slice skips.
    let offsets = unsafe { std::slice::from_raw_parts(offsets.cast::<O>().add(offset), length + 1) };
    let place = |row: usize| offsets[row].try_into().map_err(|_| Fault::Layout);
    let end: usize = place(length)?;
    // SAFETY: the bytes reach to the last offset; a null pointer stands for none.
    let bytes: &[u8] =
        if bytes.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), end) } };
    let mut found = Vec::with_capacity(length);
    for row in 0..length {
        // SAFETY: the bitmap has a bit for every row, those that a slice skips included.
        if !validity.is_null() && !unsafe { is_set(validity.cast(), offset + row) } {
            continue;
        }
        let text = bytes.get(place(row)?..place(row + 1)?).ok_or(Fault::Layout)?;
        found.push(std::str::from_utf8(text).map_err(|_| Fault::Utf8(row))?);
    }
    Ok(found)
}

/// # Safety
/// As [`texts`], and the array is one of views: 16 bytes each, the text itself or where it is in one of many buffers.
unsafe fn viewed_rows<'a>(array: &Array) -> Result<Vec<&'a str>, Fault> {
    const INLINE: usize = 12;
    let number = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    let (Ok(length), Ok(offset), Ok(buffers)) =
        (usize::try_from(array.length), usize::try_from(array.offset), usize::try_from(array.num_buffers))
    else {
        return Err(Fault::Layout);
    };
    if length == 0 {
        return Ok(Vec::new());
    }
    if buffers < 3 || array.buffers.is_null() {
        return Err(Fault::Layout);
    }
    // SAFETY: there are as many buffers as the array says: validity, views, texts, and the sizes of the texts.
    let buffers = unsafe { std::slice::from_raw_parts(array.buffers, buffers) };
    let (validity, views, many) = (buffers[0], buffers[1], &buffers[2..]);
    let (&sizes, many) = many.split_last().expect("three buffers at least");
    if views.is_null() || (sizes.is_null() && !many.is_empty()) || !sizes.cast::<i64>().is_aligned() {
        return Err(Fault::Layout);
    }
    // SAFETY: there is a view for every row, behind those that a slice skips.
    let views: &'a [[u8; 16]] = unsafe { std::slice::from_raw_parts(views.cast::<[u8; 16]>().add(offset), length) };
    let mut found = Vec::with_capacity(length);
    for (row, view) in views.iter().enumerate() {
        // SAFETY: the bitmap has a bit for every row, those that a slice skips included.
        if !validity.is_null() && !unsafe { is_set(validity.cast(), offset + row) } {
            continue;
        }
        let size = usize::try_from(number(&view[..4])).map_err(|_| Fault::Layout)?;
        let text = if size <= INLINE {
            &view[4..4 + size]
        } else {
            let which = usize::try_from(number(&view[8..12])).map_err(|_| Fault::Layout)?;
            let start = usize::try_from(number(&view[12..])).map_err(|_| Fault::Layout)?;
            let &buffer = many.get(which).ok_or(Fault::Layout)?;
            // SAFETY: there is a size for each of the many buffers.
            let limit = unsafe { *sizes.cast::<i64>().add(which) };
            if buffer.is_null() || i64::try_from(start + size).map_err(|_| Fault::Layout)? > limit {
                return Err(Fault::Layout);
            }
            // SAFETY: the text lies inside its buffer.
            unsafe { std::slice::from_raw_parts(buffer.cast::<u8>().add(start), size) }
        };
        found.push(std::str::from_utf8(text).map_err(|_| Fault::Utf8(row))?);
    }
    Ok(found)
}

/// # Safety
/// The bitmap has that many bits.
unsafe fn is_set(bitmap: *const u8, bit: usize) -> bool {
    // SAFETY: the caller promises the byte.
    unsafe { *bitmap.add(bit / 8) >> (bit % 8) & 1 == 1 }
}

/// The first `limit` characters of a text, and how many there are in it.
pub fn cropped(text: &str, limit: usize) -> (&str, usize) {
    if text.len() <= limit {
        return (text, count_chars(text));
    }
    match text.char_indices().nth(limit) {
        Some((end, _)) => (&text[..end], limit),
        None => (text, count_chars(text)),
    }
}

/// Number of characters: bytes that do not continue one.
pub fn count_chars(text: &str) -> usize {
    text.as_bytes().iter().filter(|&&byte| byte as i8 >= -0x40).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(
        validity: *const u8,
        offsets: *const c_void,
        bytes: &[u8],
        length: i64,
        offset: i64,
    ) -> (Array, Vec<*const c_void>) {
        let buffers = vec![validity.cast(), offsets, bytes.as_ptr().cast()];
        let array = Array {
            length,
            null_count: -1,
            offset,
            num_buffers: 3,
            num_children: 0,
            buffers: buffers.as_ptr(),
            children: std::ptr::null_mut(),
            dictionary: std::ptr::null_mut(),
            release: std::ptr::null(),
            private_data: std::ptr::null_mut(),
        };
        (array, buffers)
    }

    fn schema(format: &CStr) -> Schema {
        Schema {
            format: format.as_ptr(),
            name: std::ptr::null(),
            metadata: std::ptr::null(),
            flags: 0,
            num_children: 0,
            children: std::ptr::null_mut(),
            dictionary: std::ptr::null_mut(),
            release: std::ptr::null(),
            private_data: std::ptr::null_mut(),
        }
    }

    #[test]
    fn rows_of_a_slice_without_its_nulls() {
        let offsets = [0i32, 2, 2, 5, 6];
        let bytes = b"abcdex";
        let validity = [0b1101u8];
        let (array, _buffers) = array(validity.as_ptr(), offsets.as_ptr().cast(), bytes, 3, 1);
        // SAFETY: the structs and what they point to live here.
        assert_eq!(unsafe { texts(&schema(c"u"), &array) }, Ok(vec!["cde", "x"]));
    }

    #[test]
    fn wide_offsets_and_what_is_refused() {
        let offsets = [0i64, 1, 3];
        let bytes = b"a\xff\xfe";
        let (array, _buffers) = array(std::ptr::null(), offsets.as_ptr().cast(), bytes, 2, 0);
        // SAFETY: as above.
        unsafe {
            assert_eq!(texts(&schema(c"U"), &array), Err(Fault::Utf8(1)));
            assert_eq!(texts(&schema(c"z"), &array), Err(Fault::Type("z".into())));
        }
        let backwards = [0i64, 3, 1];
        let (array, _buffers) = super::tests::array(std::ptr::null(), backwards.as_ptr().cast(), b"abc", 2, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { texts(&schema(c"U"), &array) }, Err(Fault::Layout));
    }

    #[test]
    fn cropping_counts_characters() {
        assert_eq!(cropped("héllo", 2), ("hé", 2));
        assert_eq!(cropped("héllo", 5), ("héllo", 5));
        assert_eq!(cropped("h😀x", 9), ("h😀x", 3));
        assert_eq!(cropped("", 3), ("", 0));
    }
}
