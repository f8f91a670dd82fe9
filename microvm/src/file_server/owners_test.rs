use nix::libc;

use super::*;

/// The low ids and those from 100000 are the same.
fn owners(ids: &[u32]) -> Owners {
    let extent = |inside, outside, count| IdExtent { inside, outside, count };
    let owners = Owners::new(&[
        extent(0, 1_900_000_000, 65_536),
        extent(FIRST_PLACE, 1_900_065_536, 160),
        extent(100_000, 1_901_000_000, 65_536),
    ]);
    owners.place(ids.to_vec()).unwrap();
    owners
}

fn hosts() -> Owners {
    Owners::new(&[IdExtent::ALL])
}

#[test]
fn placed_ids_are_themselves_in_the_guest_and_places_here() {
    let owners = owners(&[70_000, 1_000_650_000]);
    for (guest, here) in [
        (0, 0),
        (65_535, 65_535),
        (100_000, 100_000),
        (165_535, 165_535),
        (70_000, FIRST_PLACE),
        (1_000_650_000, FIRST_PLACE + 1),
        (NONE, NONE),
    ] {
        assert_eq!((owners.inward(guest).unwrap(), owners.outward(here)), (here, guest));
    }
    for nobody in [70_001, 99_999, 165_536, FIRST_PLACE, FIRST_PLACE + 1] {
        assert_eq!(owners.inward(nobody).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
    assert_eq!(owners.outward(FIRST_PLACE + 2), NOBODY);
}

#[test]
fn without_places_every_id_is_itself() {
    let owners = hosts();
    for id in [0, 70_000, FIRST_PLACE, NONE] {
        assert_eq!((owners.inward(id).unwrap(), owners.outward(id)), (id, id));
    }
    assert_eq!(owners.place(vec![70_000]), Err(PlaceError::HostIds));
}

#[test]
fn places_are_added_and_never_change() {
    let owners = owners(&[70_000]);
    owners.place(vec![70_000, 80_000]).unwrap();
    // Came later, was made before.
    owners.place(vec![70_000]).unwrap();
    assert_eq!(owners.inward(80_000).unwrap(), FIRST_PLACE + 1);
    assert_eq!(owners.place(vec![80_000]), Err(PlaceError::Moved(0)));
    assert_eq!(owners.place(vec![70_000, 80_000, 5]), Err(PlaceError::Needless(5)));
    assert_eq!(owners.inward(80_000).unwrap(), FIRST_PLACE + 1);
}

#[test]
fn access_control_lists_name_the_same_owners() {
    let owners = owners(&[70_000]);
    let list = |ids: [u32; 3]| {
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [1u16, 2, 8].into_iter().zip(ids) {
            list.extend([tag, 7].map(u16::to_le_bytes).concat());
            list.extend(id.to_le_bytes());
        }
        list
    };
    let (guest, here) = (list([NONE, 70_000, 7]), list([NONE, FIRST_PLACE, 7]));
    for name in LISTS {
        assert_eq!(owners.value_to_set(name, &guest).unwrap(), here);
        match owners.value_told(name, Ok(GetxattrReply::Value(here.clone()))).unwrap() {
            GetxattrReply::Value(told) => assert_eq!(told, guest),
            GetxattrReply::Count(_) => panic!("a length"),
        }
    }
    assert_eq!(owners.value_to_set(c"user.x", &guest).unwrap(), guest);
    assert!(owners.value_to_set(LISTS[0], &list([NONE, 70_001, 7])).is_err());
    let told = owners
        .value_told(LISTS[0], Ok(GetxattrReply::Value(list([NONE, NONE, 7]))))
        .unwrap();
    assert!(matches!(told, GetxattrReply::Value(told) if told == list([NONE, NOBODY, 7])));
    // No list: nothing to find in it.
    for broken in [&[][..], &[2, 0], &[2, 0, 0, 0, 1, 0, 7, 0, 1]] {
        assert_eq!(owners.value_to_set(LISTS[0], broken).unwrap(), broken);
    }
}

#[test]
fn a_file_system_without_lists_has_none_for_a_file() {
    let told = |name| {
        let error = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let told = hosts().value_told(name, Err(error));
        told.map(|_| ()).unwrap_err().raw_os_error()
    };
    assert_eq!(LISTS.map(told), [Some(libc::ENODATA); 2]);
    assert_eq!(told(c"user.x"), Some(libc::EOPNOTSUPP));
}

#[test]
fn what_is_asked_and_told_is_renumbered() {
    let owners = owners(&[70_000]);
    let caller = owners.caller(Context {
        uid: 70_000.into(),
        gid: 5.into(),
        pid: libc::pid_t::MAX,
    });
    let caller = caller.unwrap();
    assert_eq!((caller.uid.into_inner(), caller.gid.into_inner()), (FIRST_PLACE, 5));
    let set = owners.to_set(SetattrIn {
        uid: 6.into(),
        gid: 70_000.into(),
        ..SetattrIn::default()
    });
    let set = set.unwrap();
    assert_eq!((set.uid.into_inner(), set.gid.into_inner()), (6, FIRST_PLACE));
    for nobody in [70_001, NONE] {
        let caller = Context {
            uid: nobody.into(),
            gid: 0.into(),
            pid: 1,
        };
        assert!(owners.caller(caller).is_err() && (nobody != NONE || hosts().caller(caller).is_err()));
    }
    let told = owners.told(Attr {
        uid: FIRST_PLACE.into(),
        gid: 9.into(),
        ..Attr::default()
    });
    assert_eq!((told.uid.into_inner(), told.gid.into_inner()), (70_000, 9));
    let extensions = owners.extensions(Extensions {
        sup_gids: vec![70_000.into(), 3.into()],
        secctx: None,
    });
    let extensions = extensions.unwrap();
    let groups: Vec<u32> = extensions.sup_gids.iter().map(|id| id.into_inner()).collect();
    assert_eq!(groups, [FIRST_PLACE, 3]);
}
