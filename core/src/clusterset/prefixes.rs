//! Sets of prefixes.

use ipnet::IpNet;

/// Whether two prefixes share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    contains(a, b) || contains(b, a)
}

/// Whether `outer` holds all of `inner` (of the same family).
pub fn contains(outer: &IpNet, inner: &IpNet) -> bool {
    outer.contains(inner)
}

/// The first pair of overlapping prefixes of two lists.
pub fn first_overlap<'a>(
    a: impl IntoIterator<Item = &'a IpNet>,
    b: &'a [IpNet],
) -> Option<(&'a IpNet, &'a IpNet)> {
    a.into_iter()
        .find_map(|x| b.iter().find(|y| overlap(x, y)).map(|y| (x, y)))
}
