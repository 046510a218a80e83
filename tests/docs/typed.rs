//! What pages tell to type: commands that the command line takes, and configurations that load.

use clap::CommandFactory;
use eastgate::cli::args::Args;
use eastgate_config::load_str;
use eastgate_wire::DropReason;

use super::{
    markdown::{Block, blocks, spans},
    pages, root,
};

/// Made of help texts, and of what once was.
const NOT_TYPED: [&str; 2] = ["docs/cli.md", "CHANGELOG.md"];

/// The pages that tell somebody to type something, by name.
fn typed() -> Vec<(String, String)> {
    let name = |page: &std::path::Path| page.strip_prefix(root()).unwrap().display().to_string();
    let pages = pages().into_iter().map(|page| (name(&page), std::fs::read_to_string(&page).unwrap()));
    pages.filter(|(name, _)| !NOT_TYPED.contains(&name.as_str())).collect()
}

/// The commands of a block that a shell would start, each as its words.
fn commands(block: &str) -> Vec<Vec<String>> {
    let block = block.replace("\\\n", " ");
    block.lines().flat_map(of_line).collect()
}

fn of_line(line: &str) -> Vec<Vec<String>> {
    // What stands behind a command in its line, some blanks away, is about it.
    let line = line.trim_start().trim_start_matches("$ ");
    let line = line.split("   ").next().unwrap_or_default();
    let mut commands = vec![Vec::new()];
    for word in words(line) {
        match word.as_str() {
            "|" | "||" | "&&" | ";" | "&" => commands.push(Vec::new()),
            "#" | ">" | "2>" | "<" => break,
            _ => commands.last_mut().unwrap().push(word),
        }
    }
    let mut found = Vec::new();
    for command in commands {
        // Also behind `sudo`, in another namespace, and at the end of `eastgate lab exec LAB NODE --`.
        let starts = command.iter().enumerate().filter(|(_, word)| *word == "eastgate").map(|(at, _)| at);
        let starts: Vec<usize> = starts.collect();
        let inside = |at: usize| {
            at == 0 || ["--", "sudo", "alpha", "beta", "until"].contains(&command[at - 1].as_str())
        };
        found.extend(starts.into_iter().filter(|at| inside(*at)).map(|at| command[at..].to_vec()));
    }
    found
}

/// Words as a shell reads them, without what it would put in their place. A `;` behind one is a word.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (';', None) => {
                words.extend(word.take());
                words.push(";".into());
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A word that stands for another one, as the command line would take one.
fn in_place_of(word: &str) -> String {
    match word {
        "N" => "5001".into(),
        "ADDRESS" => "10.1.0.11".into(),
        "HOST:PORT" | "ADDRESS:PORT" => "192.0.2.9:4739".into(),
        word => word.trim_end_matches("...").replace("[OPTIONS]", ""),
    }
}

#[test]
fn what_is_told_to_type_is_taken() {
    let (mut tried, mut refused) = (0, Vec::new());
    for (page, text) in typed() {
        let typed = |block: &Block| ["", "sh", "console"].contains(&block.kind.as_str());
        let blocks = blocks(&text).into_iter().filter(typed).map(|block| block.text);
        // A name of a command in running text need not have all that it takes.
        let spans =
            spans(&text).into_iter().filter(|span| page == "docs/troubleshooting.md" && span.contains(' '));
        for command in blocks.chain(spans).flat_map(|text| commands(&text)).filter(|words| words.len() > 1) {
            tried += 1;
            if let Err(error) =
                Args::command().try_get_matches_from(command.iter().map(|word| in_place_of(word)))
            {
                let shown = command.join(" ");
                refused.push(format!(
                    "{page}: {shown}: {}",
                    error.to_string().lines().next().unwrap_or_default()
                ));
            }
        }
    }
    assert!(tried > 120, "only {tried} commands found: the search is broken");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn commands_are_found_where_a_shell_would_start_them() {
    let told = |line| of_line(line).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        told("$ eastgate show flows --port 5432      those of the database"),
        ["eastgate show flows --port 5432"]
    );
    assert_eq!(told("until alpha eastgate status && beta eastgate status; do sleep 1; done").len(), 2);
    assert_eq!(
        told("eastgate lab exec 01-two-hosts beta -- eastgate show drops | tail -n 1"),
        ["eastgate lab exec 01-two-hosts beta -- eastgate show drops", "eastgate show drops"]
    );
    assert_eq!(told("eastgate import libvirt a.xml > b.toml"), ["eastgate import libvirt a.xml"]);
    assert!(told("journalctl -u eastgate").is_empty() && told("the eastgate that runs").is_empty());
}

/// The picture of a packet's way names reasons that there are.
#[test]
fn the_picture_names_reasons() {
    let picture = super::read("docs/pictures/packet.svg");
    let named = picture.split("class=\"small mono\">").skip(1).filter_map(|rest| rest.split('<').next());
    let named: Vec<&str> = named.flat_map(|text| text.split(", ")).collect();
    assert!(named.len() > 12, "{named:?}");
    let known: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let unknown: Vec<_> = named.iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// A block ` ```toml ` is a whole configuration; what is a part of one is indented.
#[test]
fn configurations_of_pages_load() {
    let (mut tried, mut refused) = (0, Vec::new());
    for (page, text) in typed() {
        for block in blocks(&text).into_iter().filter(|block| block.kind == "toml") {
            tried += 1;
            let name = format!("{page}, line {}", block.line);
            if let Err(diagnostics) = load_str(&name, &block.text) {
                refused.push(format!("{name}: {diagnostics:?}"));
            }
        }
    }
    assert!(tried >= 2, "only {tried} configurations found: the search is broken");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
