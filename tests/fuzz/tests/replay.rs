//! What fuzzing has found worth keeping, once more: on every target, every file of its corpus.

use std::{fs, path::Path};

#[test]
fn every_input_of_the_corpus_leaves_every_promise_true() {
    for (name, target) in fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut inputs = 0;
        for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
            let path = file.unwrap().path();
            let input = fs::read(&path).unwrap();
            // The input that breaks a promise is the last one named.
            println!("{}", path.display());
            target(&input);
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
    }
}
