//! The known word that was perhaps meant.

/// A word that is less like every known one than this is not taken for a slip of the keyboard.
const LIKENESS_MIN: f64 = 0.7;

/// ` (did you mean …?)` if a known word is near.
pub fn meant(word: &str, known: &[impl AsRef<str>]) -> String {
    let likeness = |candidate: &str| strsim::jaro_winkler(word, candidate);
    let nearest = known.iter().map(AsRef::as_ref).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(nearest) if likeness(nearest) >= LIKENESS_MIN => format!(" (did you mean `{nearest}`?)"),
        Some(_) | None => String::new(),
    }
}
