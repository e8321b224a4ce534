//! Tests of which the machine decides whether they can run, or of which there are as many as entries of a list. Each is a trial with
//! a name, on the command line of libtest. One that lacks a tool shows as `ignored`, with the tool that is missing; asked
//! for all the same (`--ignored`, `--include-ignored`) it fails. Also used by the tests of `scenarios`.
#![allow(dead_code, reason = "not every test program uses all of it")]
#![allow(clippy::print_stdout, reason = "what libtest would print")]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};

/// Whether what a test needs is there; if not, what is missing.
pub(crate) type Needs = Result<(), String>;

/// One test.
pub(crate) struct Case {
    name: String,
    needs: Option<Needs>,
    body: Box<dyn FnOnce() + Send>,
}

/// A test that fails by a panic.
pub(crate) fn case(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Case {
    Case { name: name.into(), needs: None, body: Box::new(body) }
}

impl Case {
    /// It can run only with this.
    pub(crate) fn with(self, needs: &Needs) -> Self {
        Self { needs: Some(needs.clone()), ..self }
    }
}

/// Whether these programs are installed, each with the Debian package that has it.
pub(crate) fn installed(programs: &[(&str, &str)]) -> Needs {
    let paths = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    let missing = programs.iter().filter(|(program, _)| !is_there(program));
    let missing: Vec<_> = missing.map(|(program, package)| format!("{program} (package {package})")).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("not installed: {}", missing.join(", "))) }
}

/// So many of the longest trials are printed with their times.
const LONGEST: usize = 10;

/// How long each trial took.
type Times = Arc<Mutex<Vec<(String, Duration)>>>;

/// Runs the tests that the command line asks for.
pub(crate) fn run(cases: Vec<Case>) -> ExitCode {
    // Of libtest, and unknown to the library: the times of the tests, and a newer spelling of what is always so.
    let reports_times = env::args().any(|it| it == "--report-time");
    let known = env::args().filter(|it| it != "--report-time" && it != "--no-capture");
    let arguments = Arguments::from_iter(known);
    // A list marks what cannot run, from which other runners know it; so does who asks for what cannot run.
    let is_marked = arguments.list || arguments.ignored || arguments.include_ignored;
    let times = Times::default();
    let trials = cases.into_iter().map(|case| trial(case, is_marked, times.clone())).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if reports_times {
        let mut times = times.lock().expect("no panic while it is held");
        times.sort_unstable_by_key(|(_, time)| std::cmp::Reverse(*time));
        for (name, time) in times.iter().take(LONGEST) {
            println!("test {name} <{:.3}s>", time.as_secs_f64());
        }
    }
    conclusion.exit_code()
}

fn trial(Case { name, needs, body }: Case, is_marked: bool, times: Times) -> Trial {
    let needs = needs.unwrap_or(Ok(()));
    let (of_trial, is_missing) = (name.clone(), needs.is_err());
    let trial = Trial::ignorable_test(name, move || {
        match needs {
            Ok(()) => {}
            Err(missing) if is_marked => return Err(missing.into()),
            Err(missing) => return Ok(Completion::ignored_with(missing)),
        }
        #[expect(clippy::disallowed_methods, reason = "how long a test takes is printed")]
        let now = Instant::now;
        let begun = now();
        let result = catch_unwind(AssertUnwindSafe(body));
        times.lock().expect("no panic while it is held").push((of_trial, now() - begun));
        result.map_or_else(|panic| resume_unwind(panic), |()| Ok(Completion::Completed))
    });
    trial.with_ignored_flag(is_missing && is_marked)
}

const MISSING_TOOLS: &str = "a_missing_tool_shows_as_ignored";

/// Adds the test that without tools none of these trials passes unseen: this program once more, with nothing in its `PATH`.
/// Each must say that this is `missing`.
pub(crate) fn checked(mut cases: Vec<Case>, missing: &'static str) -> Vec<Case> {
    let others = cases.iter().filter(|case| case.needs.is_none()).map(|case| case.name.clone());
    let others: Vec<String> = others.chain([MISSING_TOOLS.to_owned()]).collect();
    let needing = cases.len() + 1 - others.len();
    cases.push(case(MISSING_TOOLS, move || without_tools(&others, needing, missing)));
    cases
}

fn without_tools(others: &[String], needing: usize, missing: &str) {
    let program = env::current_exe().expect("a program knows its path");
    let outcome = |asked: &[&str]| {
        let mut again = Command::new(&program);
        again.arg("--exact").args(asked).env("PATH", Path::new("/nonexistent"));
        for name in others {
            again.args(["--skip", name]);
        }
        let output = again.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, shown) = outcome(&[]);
    assert_eq!(code, Some(0), "{shown}");
    let ignored = shown.lines().filter(|line| line.contains(" ... ignored (") && line.contains(missing)).count();
    assert_eq!(ignored, needing, "each says what is missing: {shown}");
    assert!(shown.contains(&format!(" 0 passed; 0 failed; {needing} ignored;")), "none counts as passed: {shown}");
    // As other runners ask.
    let (_, listed) = outcome(&["--list", "--format", "terse", "--ignored"]);
    assert_eq!(listed.lines().filter(|line| line.ends_with(": test")).count(), needing, "{listed}");
    let (code, failed) = outcome(&["--ignored"]);
    assert_eq!(code, Some(101), "{failed}");
    assert!(failed.contains(&format!(" 0 passed; {needing} failed;")) && failed.contains(missing), "{failed}");
}
