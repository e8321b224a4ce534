//! Goal: the page of the matrix is self-contained, renders, and shows what was measured. Method: the page as
//! text, and in headless Chromium, which the second test needs.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use trials::{case, checked, installed};

#[path = "../../nat-sim/tests/common/trials.rs"]
mod trials;

fn lab(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).env_remove("FMI_SEED").output().expect("lab runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of the browser, by distribution.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The page as a browser sees it, and its log of everything that it fetched.
fn rendered(browser: &str, page: &Path, folder: &Path) -> (String, Value) {
    let log = folder.join("net.json");
    let profile = folder.join("profile");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--log-net-log={}", log.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(log).expect("a log");
    (String::from_utf8_lossy(&output.stdout).into_owned(), serde_json::from_str(&log).expect("JSON"))
}

fn main() -> ExitCode {
    let found = BROWSERS.into_iter().find(|name| installed(&[(name, "chromium")]).is_ok());
    let browser = installed(&[(found.unwrap_or("chromium"), "chromium")]);
    let rendered = case("the_page_shows_each_cell_in_a_browser", move || is_rendered(found.expect("it is there")));
    let cases = vec![rendered.with(&browser), case("the_page_stands_alone", stands_alone)];
    trials::run(checked(cases, "not installed: chromium (package chromium)"))
}

/// The page, the folder that it is in, and the same cells as data: measured once for all tests of this process.
static MATRIX: LazyLock<(TempDir, Value)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join(PAGE);
    let json = lab(&["matrix", "--json", "--html", page.to_str().expect("a path")]);
    (folder, serde_json::from_str(&json).expect("JSON"))
});

const PAGE: &str = "matrix.html";

fn stands_alone() {
    let html = std::fs::read_to_string(MATRIX.0.path().join(PAGE)).expect("a page");
    for reference in ["http:", "https:", "src=", "href=", "url(", "<script", "@import"] {
        assert!(!html.contains(reference), "the page refers to something: {reference}");
    }
}

fn is_rendered(browser: &str) {
    let (folder, matrix) = (MATRIX.0.path(), &MATRIX.1);
    let page = folder.join(PAGE);
    let cells = matrix["cells"].as_array().expect("cells");
    let (dom, log) = rendered(browser, &page, folder);
    let shown: Vec<_> = dom.split("<td class=\"").skip(1).collect();
    assert_eq!(shown.len(), cells.len());
    for (cell, shown) in cells.iter().zip(shown) {
        let path = cell["path"].as_str().expect("a path");
        assert!(shown.starts_with(path), "{cell}: {shown:.60}");
        let (first, second) = (cell["first"].as_str().expect("a name"), cell["second"].as_str().expect("a name"));
        assert!(shown.contains(&format!("title=\"{first} with {second}: {path}")), "{shown:.100}");
        let times = cell["round_trips"].as_array().expect("every pair comes together");
        let slower = times.iter().filter_map(Value::as_f64).fold(0.0, f64::max);
        let expected = match path {
            "direct" => format!("{slower:.1}"),
            "predicted" => format!("{slower:.1}p"),
            _ => path[..1].to_owned(),
        };
        let text = shown.split('>').nth(1).and_then(|text| text.split('<').next());
        assert_eq!(text, Some(expected.as_str()), "{first} with {second}");
    }
    // The page itself is read from its file; what the browser does for itself is not the page's.
    let urls = log["events"].as_array().expect("events").iter().filter_map(|event| event["params"]["url"].as_str());
    let page_name = page.display().to_string();
    let of_page: Vec<_> = log["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| {
            event["params"]["initiator"].as_str().is_some_and(|it| it.starts_with("file:") || it.contains(&page_name))
        })
        .filter_map(|event| event["params"]["url"].as_str())
        .collect();
    assert!(of_page.is_empty(), "the page fetches {of_page:?}");
    assert!(urls.filter(|url| url.starts_with("file:")).all(|url| url.contains("matrix.html")));
}
