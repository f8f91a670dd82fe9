use super::*;

#[test]
fn cpus_come_online_and_a_missing_one_is_named() {
    let sysfs = std::env::temp_dir().join(format!("cpus-test-{}", std::process::id()));
    for number in [1, 2] {
        let cpu = sysfs.join(format!("cpu{number}"));
        fs::create_dir_all(&cpu).unwrap();
        fs::write(cpu.join("online"), "0\n").unwrap();
    }
    let few = bring_online(&sysfs, 2);
    let online = |number: u32| fs::read_to_string(sysfs.join(format!("cpu{number}/online"))).unwrap();
    let after_few = (online(1), online(2));
    let missing = bring_online(&sysfs, 4);
    let after_all = online(2);
    fs::remove_dir_all(&sysfs).unwrap();
    few.unwrap();
    assert_eq!(after_few, ("1".to_owned(), "0\n".to_owned()));
    assert_eq!(after_all, "1");
    assert!(missing.unwrap_err().to_string().contains("CPU 3"));
}
