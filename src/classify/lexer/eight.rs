//! Where words and names end, found eight bytes at a time.

const ONES: u64 = u64::from_le_bytes([1; 8]);
/// The highest bit of each of eight bytes.
const HIGH: u64 = 0x80 * ONES;

/// How many letters of ASCII, digits and `_` a text begins with, eight at a time: what is within eight bytes of its end
/// is not counted.
#[inline(always)]
pub(super) fn plain_word_length(text: &[u8]) -> usize {
    let mut length = 0;
    while let Some(eight) = eight_at(text, length) {
        // The highest bit of each byte is free to take the carry of its other seven.
        let low = eight & !HIGH;
        let between = |bytes: u64, first: u8, last: u8| {
            (bytes + (0x80 - u64::from(first)) * ONES) & !(bytes + (0x7f - u64::from(last)) * ONES)
        };
        let caseless = low | (0x20 * ONES);
        let is_part = between(caseless, b'a', b'z') | between(low, b'0', b'9') | between(low, b'_', b'_');
        let others = !(is_part & !eight) & HIGH;
        if others != 0 {
            return length + others.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    length
}

/// How many bytes stand before the quote that ends a name, eight at a time; none if one of them is no ASCII, zero or
/// another quote, or within eight bytes of the text's end.
#[inline(always)]
pub(super) fn plain_name_length(text: &[u8], quote: u8) -> Option<usize> {
    let mut length = 0;
    loop {
        let eight = eight_at(text, length)?;
        // Bit patterns that have the highest bit of the first zero byte, and of none before it.
        let zeros = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes & HIGH;
        let quotes = zeros(eight ^ (u64::from(quote) * ONES));
        let odd = zeros(eight) | (eight & HIGH);
        if quotes == 0 {
            length += 8;
            if odd != 0 {
                return None;
            }
            continue;
        }
        let before = quotes.trailing_zeros() as usize / 8;
        let is_odd = odd.trailing_zeros() < quotes.trailing_zeros();
        length += before;
        return (!is_odd && text.get(length + 1) != Some(&quote)).then_some(length);
    }
}

#[inline(always)]
fn eight_at(text: &[u8], at: usize) -> Option<u64> {
    let eight = text.get(at..at + 8)?;
    Some(u64::from_le_bytes(eight.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_ends_a_word_or_a_name_or_does_not() {
        const BEHIND: &[u8] = b"; and eight bytes more";
        for place in 0..20 {
            for byte in 0..=255_u8 {
                let text = |end: &[u8]| [&vec![b'a'; place], &[byte][..], end, BEHIND].concat();
                let is_plain = byte.is_ascii_alphanumeric() || byte == b'_';
                assert_eq!(
                    plain_word_length(&text(b"b")),
                    if is_plain { place + 2 } else { place },
                    "{byte} at {place}"
                );
                // A quote of the name's own would be doubled.
                let is_odd = byte == 0 || byte >= 0x80 || byte == b'`';
                let found = plain_name_length(&text(b"`"), b'`');
                assert_eq!(found, (!is_odd).then_some(place + 1), "{byte} at {place}");
            }
        }
    }

    #[test]
    fn words_and_names_end_with_the_text() {
        for place in 0..20 {
            let all = vec![b'a'; place];
            assert_eq!(plain_word_length(&all), place / 8 * 8);
            assert_eq!(plain_name_length(&all, b'`'), None);
        }
    }
}
