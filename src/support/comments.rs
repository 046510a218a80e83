//! A configuration without what is only for people: comments and descriptions. Lines stay where they are, as the places in
//! diagnostics and rules name them.

/// The same text with comments and values of `description` left out. What is no TOML is taken as far as it can be: a string that
/// does not end goes to the end of its line.
#[must_use]
pub fn without_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '#' {
            rest = rest.find('\n').map_or("", |end| rest.get(end..).unwrap_or(""));
            continue;
        }
        if c == '"' || c == '\'' {
            let (string, after) = rest.split_at(string_len(rest, c));
            if is_description(&out) {
                out.push_str("\"\"");
                // Lines after it stay where they are.
                out.extend(string.chars().filter(|c| *c == '\n'));
            } else {
                out.push_str(string);
            }
            rest = after;
            continue;
        }
        out.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or("");
    }
    out
}

/// Diagnostics without the lines of files that they show.
#[must_use]
pub fn without_snippets(text: &str) -> String {
    let is_snippet = |line: &str| {
        let line = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        line.trim_start().starts_with('|')
    };
    text.split_inclusive('\n').filter(|line| !is_snippet(line)).collect()
}

/// Bytes of the string that a text begins with.
fn string_len(text: &str, quote: char) -> usize {
    let three: String = [quote; 3].iter().collect();
    let long = text.starts_with(&three);
    let end = if long { &*three } else { three.get(..1).unwrap_or("") };
    let mut at = end.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(end) {
            // Quotes may stand right before the three that end it.
            let quotes = rest.chars().take_while(|c| *c == quote).count();
            return at + if long { quotes.min(5) } else { 1 };
        }
        let c = rest.chars().next().unwrap_or(' ');
        if c == '\n' && !long {
            return at;
        }
        at += c.len_utf8();
        if c == '\\' && quote == '"' {
            at += text.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        }
    }
    text.len()
}

/// Whether what comes next is the value of a description.
fn is_description(before: &str) -> bool {
    let Some(key) = before.trim_end().strip_suffix('=') else { return false };
    key.trim_end().trim_end_matches(['"', '\'']).ends_with("description")
}

#[cfg(test)]
mod tests {
    use super::{without_snippets, without_words};

    #[test]
    fn lines_of_files_go_from_errors() {
        let error = "error[bad-mac]: no\n --> a.toml:3:7\n  |\n3 | mac = \"zz\" # secret\n  |       ^^^^\n  |\n  = help: write one\n";
        assert_eq!(without_snippets(error), "error[bad-mac]: no\n --> a.toml:3:7\n  = help: write one\n");
    }

    #[test]
    fn what_is_for_people_goes_and_lines_stay() {
        let text = "# password: hunter2\n[tenant.acme] # of Alice\ndescription = \"call \\\"Bob\\\" # 1\"\nx = \"a # b\" # c\n\
                    rule = { description = '''of\nCarol''', to = 'any#1' }\ny = 1\n";
        let wanted = "\n[tenant.acme] \ndescription = \"\"\nx = \"a # b\" \nrule = { description = \"\"\n, to = 'any#1' }\ny = 1\n";
        assert_eq!(without_words(text), wanted);
        assert_eq!(text.lines().count(), wanted.lines().count());
    }

    #[test]
    fn what_is_no_toml_loses_its_comments_too() {
        assert_eq!(without_words("a = \"open\n# secret\nb = 1"), "a = \"open\n\nb = 1");
        assert_eq!(without_words("a = '''open # secret?"), "a = '''open # secret?");
        assert_eq!(without_words("ä = \"ü\\"), "ä = \"ü\\");
    }
}
