use super::*;

#[test]
fn ids_become_file_names_and_nothing_else() {
    for good in ["a", "A-b_c.9", "...x", &"x".repeat(200)] {
        assert!(check_id("container", good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a b", "\u{e4}", &"x".repeat(201)] {
        assert_eq!(
            check_id("container", bad).unwrap_err().kind,
            Kind::InvalidArgument,
            "{bad}"
        );
    }
}

#[test]
fn a_reserved_name_is_free_again_unless_it_gets_its_value() {
    let map: Mutex<HashMap<String, Option<Arc<u8>>>> = Mutex::default();
    map.lock().unwrap().insert("kept".into(), None);
    map.lock().unwrap().insert("lost".into(), None);
    drop(Reserved {
        map: &map,
        id: "kept",
        value: Some(Arc::new(1)),
    });
    drop(Reserved {
        map: &map,
        id: "lost",
        value: None,
    });
    assert_eq!(map.lock().unwrap().keys().collect::<Vec<_>>(), ["kept"]);
}
