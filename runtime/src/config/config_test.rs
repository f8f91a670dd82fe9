use std::path::{Path, PathBuf};

use super::{Config, ConfigError};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/x.toml"))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn the_default_file_may_be_missing_and_a_named_one_may_not() {
    let missing = Path::new("/nonexistent/bulkhead.toml");
    assert_eq!(Config::read(missing, true).unwrap(), Config::default());
    let error = Config::load(Some(missing)).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/bulkhead.toml"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_line() {
    let error = parse("default_vcpus = 1\ndefualt_memory_mib = 3\n")
        .unwrap_err()
        .to_string();
    for part in ["/etc/x.toml", "defualt_memory_mib", "line 2", "correct or remove"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    let error = parse("kernel = 7").unwrap_err().to_string();
    assert!(error.contains("kernel = 7"), "{error}");
}

#[test]
fn values_outside_their_limits_are_refused() {
    for (text, key) in [
        ("default_vcpus = 0", "default_vcpus"),
        ("max_vcpus = 129", "max_vcpus"),
        ("max_vcpus = 2\ndefault_vcpus = 3", "default_vcpus"),
        ("default_memory_mib = 63", "default_memory_mib"),
        ("boot_timeout_s = 0", "boot_timeout_s"),
        ("state_dir = \"run\"", "state_dir"),
        ("kernel_parameters = \"a\\nb\"", "kernel_parameters"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Value { key: k, .. } if *k == key),
            "{text}: {error}"
        );
    }
}

#[test]
fn the_example_file_is_accepted_and_shows_every_default() {
    let example = include_str!("../../../configs/bulkhead.toml");
    parse(example).unwrap();
    // Every option stands there as a comment; taking the marks away must give a valid file with the built-in values.
    let uncommented: String = example
        .lines()
        .filter_map(|line| {
            line.strip_prefix("#")
                .filter(|rest| !rest.starts_with(' ') && !rest.is_empty())
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let mut shown = parse(&uncommented).unwrap();
    let defaults = Config::default();
    assert_eq!(shown.vmm, PathBuf::from("/usr/local/libexec/bulkhead/bulkhead-vmm"));
    assert_eq!(shown.kernel, PathBuf::from("/usr/local/share/bulkhead/vmlinux"));
    assert_eq!(
        shown.agent_image,
        PathBuf::from("/usr/local/share/bulkhead/agent.erofs")
    );
    (shown.vmm, shown.kernel, shown.agent_image) = (
        defaults.vmm.clone(),
        defaults.kernel.clone(),
        defaults.agent_image.clone(),
    );
    shown.default_vcpus = defaults.default_vcpus;
    shown.max_memory_mib = defaults.max_memory_mib;
    assert_eq!(shown, defaults);
    assert_eq!(
        uncommented.lines().count(),
        16,
        "an option is missing in configs/bulkhead.toml"
    );
}
