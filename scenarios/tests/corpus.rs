//! Goal: what fuzzing has found worth keeping stays harmless. Method: each file of each corpus once more.

use std::path::Path;

#[test]
fn every_corpus_replays() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in scenarios::fuzz::TARGETS {
        let folder = corpora.join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        assert!(files.len() >= 5, "the corpus of {name} has {} files", files.len());
        for file in files {
            target(&std::fs::read(&file).expect("readable"));
        }
    }
}
