//! Blocks of code in pages.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A block of code.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// What stands behind the fence, `sh` for example; empty of a block that is indented
    pub(crate) kind: String,
    /// Its lines, without fence or indentation
    pub(crate) text: String,
    /// The line of the page that it begins at, from 1
    pub(crate) line: usize,
}

/// The blocks of code of a page in their order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (event, range) in Parser::new_ext(page, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let kind = match kind {
                    CodeBlockKind::Fenced(info) => info.to_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                let line = page[..range.start].matches('\n').count() + 1;
                blocks.push(Block { kind, text: String::new(), line });
                inside = true;
            }
            Event::End(TagEnd::CodeBlock) => inside = false,
            Event::Text(text) if inside => {
                if let Some(block) = blocks.last_mut() {
                    block.text.push_str(&text);
                }
            }
            _ => {}
        }
    }
    blocks
}

/// Words in running text that are marked as code.
#[allow(dead_code, reason = "not each test program that has this asks for it")]
pub(crate) fn spans(page: &str) -> Vec<String> {
    let parser = Parser::new_ext(page, Options::ENABLE_TABLES);
    let code = |event| if let Event::Code(text) = event { Some(text.to_string()) } else { None };
    parser.filter_map(code).collect()
}
