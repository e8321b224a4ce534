//! The list of requirements, its tests and its page say the same.

use nat_sim::nat::requirement::{self, Status};

/// All test modules of this directory.
const TESTS: &str = concat!(
    include_str!("mapping.rs"),
    include_str!("ports.rs"),
    include_str!("filtering.rs"),
    include_str!("tcp.rs"),
    include_str!("timers.rs"),
    include_str!("errors.rs"),
    include_str!("hairpin_and_life.rs"),
);

#[test]
fn each_tested_requirement_has_a_test_of_its_name() {
    for requirement in requirement::ALL {
        let name = format!("fn {}_", requirement.id.to_lowercase().replace('-', "_"));
        let has_test = TESTS.contains(&name);
        assert_eq!(has_test, matches!(requirement.status, Status::Tested(_)), "{}", requirement.id);
    }
}

#[test]
fn the_page_is_made_from_the_list() {
    let page = include_str!("../../REQUIREMENTS.md");
    assert!(
        page == requirement::markdown(),
        "run: cargo run -p scenarios -- nats --requirements > nat-sim/REQUIREMENTS.md"
    );
}

#[test]
fn presets_that_stand_for_the_rfcs_break_no_must() {
    for requirement in requirement::ALL.iter().filter(|requirement| requirement.level == "MUST") {
        let broken = requirement::violators(requirement);
        assert!(!broken.iter().any(|preset| preset.name == "rfc_ideal"), "{}", requirement.id);
    }
}
