//! Large tables on large pages: fewer faults while they fill, fewer misses of the address cache while they are read.

/// Less than this is not worth a call.
const WORTH_IT: usize = 4 << 20;

/// An empty vector with room for `capacity` items; if that is much, on large pages where the system has them.
pub(crate) fn with_room<T>(capacity: usize) -> Vec<T> {
    let room = Vec::with_capacity(capacity);
    prefer_large_pages(&room);
    room
}

/// `length` times the same item, on large pages if it is much.
pub(crate) fn filled<T: Clone>(item: T, length: usize) -> Vec<T> {
    let mut all = with_room(length);
    all.resize(length, item);
    all
}

/// `length` items of zeros, which the system gives as such: nothing is written, and what is never used takes no memory.
pub(crate) fn zeroed<const N: usize>(length: usize) -> Vec<[u64; N]> {
    let all = vec![[0; N]; length];
    prefer_large_pages(&all);
    all
}

/// Lengthens a vector with zeros. A large one is moved by the system page by page, not copied.
pub(crate) fn grow_zeroed<const N: usize>(items: &mut Vec<[u64; N]>, length: usize) {
    items.reserve_exact(length - items.len());
    prefer_large_pages(items);
    items.resize(length, [0; N]);
}

/// Makes room for `more` items; a vector that has to move doubles, and asks for large pages again.
pub(crate) fn reserve<T>(items: &mut Vec<T>, more: usize) {
    if items.capacity() - items.len() < more {
        items.reserve(more);
        prefer_large_pages(items);
    }
}

/// Tells the system that a vector's memory will be used all over. Nothing changes where it does not know or care.
#[allow(unsafe_code)]
fn prefer_large_pages<T>(items: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const LARGE_PAGE: usize = 2 << 20;
        const MADV_HUGEPAGE: i32 = 14;
        unsafe extern "C" {
            fn madvise(start: *mut std::ffi::c_void, length: usize, advice: i32) -> i32;
        }
        let bytes = items.capacity() * size_of::<T>();
        if bytes < WORTH_IT {
            return;
        }
        let start = items.as_ptr() as usize;
        let (first, last) = (start.next_multiple_of(LARGE_PAGE), (start + bytes) / LARGE_PAGE * LARGE_PAGE);
        if first < last {
            // SAFETY: whole pages inside memory that the vector owns; the advice changes how they are backed, not what
            // they hold. A refusal is fine.
            unsafe { madvise(first as *mut std::ffi::c_void, last - first, MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (items, WORTH_IT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_as_any_others() {
        for length in [0, 10, WORTH_IT + 3] {
            let mut items = filled(7u16, length);
            assert_eq!(items.len(), length);
            reserve(&mut items, 5 * length);
            items.extend_from_slice(&[1, 2]);
            assert!(items[..length].iter().all(|&item| item == 7) && items[length..] == [1, 2]);
        }
        assert!(with_room::<u64>(WORTH_IT).is_empty());
    }
}
