use serde_json::json;

use super::size_tmpfs;

#[test]
fn a_tmpfs_without_a_size_has_half_of_the_memory() {
    let mut spec = json!({ "mounts": [
        { "type": "tmpfs", "destination": "/a" },
        { "type": "tmpfs", "destination": "/b", "options": ["ro", "mode=755"] },
        { "type": "tmpfs", "destination": "/c", "options": ["size=1m"] },
        { "type": "tmpfs", "destination": "/d", "options": ["nr_blocks=7"] },
        { "type": "bind", "destination": "/e", "source": "/x" },
    ] });
    size_tmpfs(&mut spec, 1 << 30);
    assert_eq!(
        spec,
        json!({ "mounts": [
            { "type": "tmpfs", "destination": "/a", "options": ["size=524288k"] },
            { "type": "tmpfs", "destination": "/b", "options": ["ro", "mode=755", "size=524288k"] },
            { "type": "tmpfs", "destination": "/c", "options": ["size=1m"] },
            { "type": "tmpfs", "destination": "/d", "options": ["nr_blocks=7"] },
            { "type": "bind", "destination": "/e", "source": "/x" },
        ] })
    );
    let mut none = json!({});
    size_tmpfs(&mut none, 1);
    assert_eq!(none, json!({}));
}
