//! The table of contents.

use super::page::Page;

/// The pages of a table of contents in their order, as its links name them.
pub(super) fn chapters(text: &str) -> Vec<String> {
    Page::of(text).links.into_iter().map(|link| link.to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_come_in_their_order() {
        let text = "# Summary\n\n[A](../README.md)\n\n# Part\n\n- [B](b.md)\n  - [C](c/c.md)\n";
        assert_eq!(chapters(text), ["../README.md", "b.md", "c/c.md"]);
    }
}
