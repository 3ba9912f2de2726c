//! Who came first.

use crate::rfc3339::micros;

/// When an export counts as made, in microseconds since 1970: as claimed, but never before its cluster was
/// admitted. What cannot be read counts as made last, so that a broken time wins nothing.
pub fn effective(claimed: &str, admitted: Option<&str>) -> i64 {
    let claimed = micros(claimed).unwrap_or(i64::MAX);
    claimed.max(admitted.map_or(i64::MIN, |a| micros(a).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_older_than_its_admission() {
        let claimed = "2020-01-01T00:00:00Z";
        let admitted = "2026-01-01T00:00:00Z";
        assert_eq!(Some(effective(claimed, Some(admitted))), micros(admitted));
        assert_eq!(Some(effective(admitted, Some(claimed))), micros(admitted));
        assert!(effective("nonsense", Some(claimed)) > effective(admitted, None));
    }
}
