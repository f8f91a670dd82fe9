use super::outside;

#[test]
fn users_are_found_by_the_map() {
    let map = "         0     100000      65536\n     70000          5          1\n";
    for (inside, found) in [
        (0, Some(100_000)),
        (65_535, Some(165_535)),
        (65_536, None),
        (70_000, Some(5)),
        (70_001, None),
    ] {
        assert_eq!(outside(map, inside), found);
    }
    assert_eq!(outside("0 0 4294967295", 4_000_000_000), Some(4_000_000_000));
    assert_eq!(outside("", 0), None);
}
