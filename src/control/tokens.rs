//! The file of tokens: who may ask over the network, and what. It has hashes alone; a token itself is known to whoever has it.

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use eastgate_api::{Hex, Role, Scope, nearest};
use eastgate_config::{Place, Source};
use ring::{
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
    value::Datetime,
};

use super::files::{Stamp, read_private};
use crate::faults::Faults;

/// What every token begins with, so that it is known for one where it should not be.
const PREFIX: &str = "eg_";

/// Bytes of a token that nobody can guess.
const SECRET: usize = 32;

/// The longest text that is taken for a token.
const LONGEST: usize = 128;

/// The keys of a token's table.
const KEYS: [&str; 5] = ["sha256", "role", "tenants", "expires", "description"];

/// The hash of a token (FIPS 180-4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; SHA256_OUTPUT_LEN]);

impl Hash {
    fn of(token: &str) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        for (to, from) in hash.iter_mut().zip(digest(&SHA256, token.as_bytes()).as_ref()) {
            *to = *from;
        }
        Self(hash)
    }

    /// Looks at all of it, however early they differ.
    fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Hex(self.0.to_vec()).fmt(f)
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash(..)")
    }
}

/// A token that nobody has had before.
///
/// # Errors
/// When the kernel has no random numbers.
pub fn make() -> Result<(String, Hash), String> {
    let mut secret = [0; SECRET];
    SystemRandom::new().fill(&mut secret).map_err(|_| "the kernel gives no random numbers".to_owned())?;
    let token = format!("{PREFIX}{}", Hex(secret.to_vec()));
    let hash = Hash::of(&token);
    Ok((token, hash))
}

/// A token, as the file has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// What it is called
    pub name: Arc<str>,
    hash: Hash,
    /// What its owner may do
    pub role: Role,
    /// For which tenants
    pub scope: Scope,
    /// Until when, in seconds since 1970 (UTC)
    expires: Option<u64>,
}

impl Token {
    /// It is too old.
    fn is_over(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.expires.is_some_and(|expires| now >= expires)
    }
}

/// The tokens of a text.
///
/// # Errors
/// All that is wrong with it.
pub fn read(name: &str, text: &str) -> Result<Vec<Arc<Token>>, Faults> {
    let mut reader = Reader { source: Source::new(name, text), faults: Faults::default() };
    let mut tokens = Vec::new();
    match DeTable::parse(text) {
        Ok(table) => reader.file(&table, &mut tokens),
        Err(error) => {
            let text = format!("this is not TOML: {}", error.message());
            reader.wrong(error.span().unwrap_or_default(), text, EXAMPLE);
        }
    }
    reader.faults.unless_any(tokens)
}

/// What one is told who has written something else.
const EXAMPLE: &str = "`eastgate token new` prints a table to paste";

struct Reader {
    source: Arc<Source>,
    faults: Faults,
}

type Span = std::ops::Range<usize>;

impl Reader {
    fn wrong(&mut self, span: Span, message: impl Into<String>, remedy: impl Into<String>) {
        let at: Place = self.source.place(span);
        self.faults.add(at, message, remedy);
    }

    fn unknown(&mut self, span: Span, key: &str, known: &[&'static str]) {
        let remedy = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known: {}", known.join(", ")),
        };
        self.wrong(span, format!("there is no key `{key}`"), remedy);
    }

    fn file(&mut self, table: &Spanned<DeTable<'_>>, tokens: &mut Vec<Arc<Token>>) {
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("token", DeValue::Table(table)) => {
                    let mut seen = HashSet::new();
                    for (name, value) in table {
                        let DeValue::Table(token) = value.get_ref() else {
                            self.wrong(value.span(), "this is no table", EXAMPLE);
                            continue;
                        };
                        let Some(token) = self.token(name, token) else { continue };
                        if !seen.insert(token.hash) {
                            let text = "another token has this hash";
                            self.wrong(name.span(), text, "give each its own: `eastgate token new`");
                        }
                        tokens.push(Arc::new(token));
                    }
                }
                ("token", _) => self.wrong(value.span(), "this is no table", EXAMPLE),
                (other, _) => self.unknown(key.span(), other, &["token"]),
            }
        }
    }

    fn token(&mut self, name: &Spanned<std::borrow::Cow<'_, str>>, table: &DeTable<'_>) -> Option<Token> {
        let (mut hash, mut role, mut scope, mut expires) = (None, None, Some(Scope::all()), Some(None));
        for (key, value) in table {
            let span = value.span();
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("sha256", DeValue::String(text)) => hash = Some(self.hash(span, text)),
                ("role", DeValue::String(text)) => role = Some(self.role(span, text)),
                ("tenants", DeValue::Array(list)) => scope = self.scope(span, list),
                ("expires", DeValue::Datetime(at)) => {
                    let until = end_of(at);
                    if until.is_none() {
                        let remedy = "write a day, such as 2030-12-31, or a time with its offset, such as 2030-12-31T12:00:00Z";
                        self.wrong(span, "this is no moment", remedy);
                    }
                    expires = until.map(Some);
                }
                ("description", DeValue::String(_)) => {}
                (known, _) if KEYS.contains(&known) => {
                    let remedy = match known {
                        "tenants" => "write a list of names, such as [\"acme\"]",
                        "expires" => "write a day without quotes, such as 2030-12-31",
                        _ => "write it in quotes",
                    };
                    self.wrong(span, format!("`{known}` is nothing of this kind"), remedy);
                    (hash, role) = (hash.or(Some(None)), role.or(Some(None)));
                }
                (other, _) => self.unknown(key.span(), other, &KEYS),
            }
        }
        for (is_missing, key) in [(hash.is_none(), "sha256"), (role.is_none(), "role")] {
            if is_missing {
                self.wrong(name.span(), format!("`{key}` is missing"), EXAMPLE);
            }
        }
        Some(Token {
            name: name.get_ref().as_ref().into(),
            hash: hash??,
            role: role??,
            scope: scope?,
            expires: expires?,
        })
    }

    fn hash(&mut self, span: Span, text: &str) -> Option<Hash> {
        let bytes = text.parse::<Hex>().ok().filter(|_| text.len() == 2 * SHA256_OUTPUT_LEN);
        let hash = bytes.and_then(|bytes| bytes.0.try_into().ok()).map(Hash);
        if hash.is_none() {
            let remedy = if text.starts_with(PREFIX) {
                "this is the token itself, which is to be in no file: its hash is what `printf %s TOKEN | sha256sum` prints"
            } else {
                "write 64 hexadecimal digits, as `eastgate token new` prints them"
            };
            self.wrong(span, "this is no SHA-256", remedy);
        }
        hash
    }

    fn role(&mut self, span: Span, text: &str) -> Option<Role> {
        let role = Role::ALL.into_iter().find(|role| role.name() == text);
        if role.is_none() {
            let known = Role::ALL.map(Role::name);
            let near = nearest(text, known).map(|near| format!("did you mean `{near}`? "));
            let remedy = format!("{}there are {}", near.unwrap_or_default(), known.join(", "));
            self.wrong(span, format!("there is no role `{text}`"), remedy);
        }
        role
    }

    fn scope(&mut self, span: Span, list: &[Spanned<DeValue<'_>>]) -> Option<Scope> {
        if list.is_empty() {
            self.wrong(span, "a token of no tenant may ask nothing", "leave `tenants` out for all of them");
            return None;
        }
        let mut tenants = Vec::new();
        for tenant in list {
            match tenant.get_ref() {
                DeValue::String(name) => tenants.push(name.to_string()),
                _ => self.wrong(tenant.span(), "this is no name of a tenant", "write it in quotes"),
            }
        }
        (tenants.len() == list.len()).then(|| Scope::of(tenants))
    }
}

/// The moment that something expires, in seconds since 1970 (UTC): the end of a day, or a time with its offset.
fn end_of(at: &Datetime) -> Option<u64> {
    let date = at.date?;
    // Days since 1970-03-01 in the proleptic Gregorian calendar, whose years are counted from March.
    let (year, month) = (i64::from(date.year), i64::from(date.month));
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + i64::from(date.day);
    let days = days - 719_469;
    let (seconds, offset) = match (at.time, at.offset) {
        (None, None) => (86_400, 0),
        (Some(time), Some(offset)) => {
            let seconds = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60;
            let minutes = match offset {
                toml::value::Offset::Z => 0,
                toml::value::Offset::Custom { minutes } => minutes,
            };
            (seconds + i64::from(time.second.unwrap_or_default()), i64::from(minutes) * 60)
        }
        _ => return None,
    };
    u64::try_from(days * 86_400 + seconds - offset).ok()
}

/// The tokens of a file, as it is now.
#[derive(Debug)]
pub(super) struct Tokens {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stamp: Option<Stamp>,
    tokens: Vec<Arc<Token>>,
    /// What is wrong with the file, which was told
    trouble: Option<String>,
}

impl Tokens {
    /// Reads them.
    ///
    /// # Errors
    /// When the file cannot be read, others may read it, or something is wrong with it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let (stamp, tokens) = load(path)?;
        let state = State { stamp: Some(stamp), tokens, trouble: None };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Reads them again if the file is another one. Where it is broken those before stay: half a file locks nobody out. Where there
    /// is none, nobody is let in: whoever takes it away means that. The log tells either once.
    pub(super) fn refresh(&self) {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => Some(stamp),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.take_all_back();
                return;
            }
            Err(_) => None,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp == state.stamp {
            return;
        }
        state.stamp = stamp;
        match load(&self.path) {
            Ok((stamp, tokens)) => {
                tracing::info!(tokens = tokens.len(), file = %self.path.display(), "tokens were read again");
                *state = State { stamp: Some(stamp), tokens, trouble: None };
            }
            Err(error) => {
                let trouble = format!("tokens are as before, the file is not taken: {error:#}");
                tracing::error!("{trouble}");
                state.trouble = Some(trouble);
            }
        }
    }

    /// Nobody is let in until there is a file again.
    fn take_all_back(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = format!(
            "the file of tokens is gone: no token is good until there is one at {}",
            self.path.display()
        );
        if state.trouble.as_ref() != Some(&trouble) {
            tracing::error!("{trouble}");
            *state = State { stamp: None, tokens: Vec::new(), trouble: Some(trouble) };
        }
    }

    /// What is wrong with the file, if anything is.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    /// The token of this text, if there is one that is good.
    pub(super) fn find(&self, text: &str) -> Option<Arc<Token>> {
        if text.len() > LONGEST || !text.starts_with(PREFIX) {
            return None;
        }
        self.refresh();
        let hash = Hash::of(text);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // All of them are compared, whichever it is.
        let found = state.tokens.iter().fold(
            None,
            |found, token| {
                if token.hash.is(&hash) { Some(token) } else { found }
            },
        );
        found.filter(|token| !token.is_over()).cloned()
    }

    /// It is still there as it was.
    pub(super) fn has(&self, token: &Token) -> bool {
        self.refresh();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tokens.iter().any(|it| **it == *token) && !token.is_over()
    }
}

fn load(path: &Path) -> anyhow::Result<(Stamp, Vec<Arc<Token>>)> {
    let (stamp, text) = read_private(path)?;
    let text = String::from_utf8(text)?;
    let tokens = read(&path.display().to_string(), &text).map_err(anyhow::Error::new)?;
    Ok((stamp, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn faults(text: &str) -> String {
        read("tokens.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn tokens_are_read() {
        let text = format!(
            "[token.ops]\nsha256 = \"{HASH}\"\nrole = \"administer\"\nexpires = 2030-12-31\n\
             [token.acme]\nsha256 = \"{}\"\nrole = \"read\"\ntenants = [\"acme\"]\ndescription = \"x\"\n",
            HASH.replace('e', "f")
        );
        let tokens = read("tokens.toml", &text).unwrap();
        let find = |name: &str| tokens.iter().find(|token| &*token.name == name).unwrap();
        assert_eq!((find("ops").role, find("ops").expires), (Role::Administer, Some(1_924_992_000)));
        assert!(find("ops").scope.is_all() && find("ops").hash.is(&Hash::of("")));
        assert!(find("acme").scope.has("acme") && !find("acme").scope.has("initech"));
        assert!(!format!("{tokens:?}").contains("e3b0"), "no hash is shown by chance");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, place, words) in [
            ("[token.x]\nrole = \"read\"\n", "tokens.toml:1:8", "`sha256` is missing"),
            ("[token.x]\nsha256 = \"eg_12\"\nrole = \"read\"\n", "tokens.toml:2:10", "the token itself"),
            ("[token.x]\nsha256 = 7\nrole = \"read\"\n", "tokens.toml:2:10", "in quotes"),
            ("[token.x]\nshae256 = \"\"\nrole = \"read\"\n", "tokens.toml:2:1", "did you mean `sha256`?"),
            ("[tokens.x]\n", "tokens.toml:1:2", "did you mean `token`?"),
            ("[token]\nx = 1\n", "tokens.toml:2:5", "no table"),
            ("[token.x\n", "tokens.toml:1:", "not TOML"),
        ] {
            let told = faults(text);
            assert!(told.contains(place) && told.contains(words), "{text}: {told}");
        }
        let with = |line: &str| faults(&format!("[token.x]\nsha256 = \"{HASH}\"\n{line}\n"));
        assert!(with("role = \"admin\"").contains("tokens.toml:3:8"));
        assert!(with("role = \"reed\"").contains("did you mean `read`?"));
        assert!(with("role = \"read\"\ntenants = []").contains("leave `tenants` out"));
        assert!(with("role = \"read\"\ntenants = [1]").contains("tokens.toml:4:12"));
        assert!(with("role = \"read\"\nexpires = 2030-12-31T12:00:00").contains("no moment"));
        let twice =
            format!("[token.a]\nsha256 = \"{HASH}\"\nrole = \"read\"\n").replace("token.a", "token.b");
        let twice = format!("[token.a]\nsha256 = \"{HASH}\"\nrole = \"read\"\n{twice}");
        assert!(faults(&twice).contains("another token has this hash"));
    }

    #[test]
    fn moments_are_counted_as_the_calendar_has_them() {
        let at = |text: &str| end_of(&text.parse().unwrap());
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(at("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(at("2026-07-04T10:20:30+02:00"), Some(1_783_153_230));
        assert_eq!(at("2026-12-31"), at("2027-01-01T00:00:00Z"));
    }

    #[test]
    fn a_token_is_made_once_and_known_by_its_hash() {
        let (token, hash) = make().unwrap();
        assert!(token.starts_with("eg_") && token.len() == 3 + 2 * SECRET);
        assert!(hash.is(&Hash::of(&token)) && hash.to_string().len() == 64);
        assert_ne!(make().unwrap().0, token);
    }

    #[test]
    fn a_file_that_changes_is_read_again_a_broken_one_is_not_taken_and_none_lets_nobody_in() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let path = std::env::temp_dir().join(format!("eastgate-tokens-{}.toml", std::process::id()));
        let (token, hash) = make().unwrap();
        let table = format!("[token.x]\nsha256 = \"{hash}\"\nrole = \"read\"\n");
        let write = |text: &str| {
            let beside = path.with_extension("new");
            fs::write(&beside, text).unwrap();
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o640)).unwrap();
            fs::rename(&beside, &path).unwrap();
        };
        write(&table);
        let tokens = Tokens::open(&path).unwrap();
        let found = tokens.find(&token).unwrap();
        assert!(tokens.has(&found) && tokens.find("eg_00").is_none() && tokens.find("").is_none());
        write("[token");
        assert!(tokens.find(&token).is_some());
        write(&table.replace("read", "operate"));
        assert!(!tokens.has(&found));
        assert_eq!(tokens.find(&token).unwrap().role, Role::Operate);
        write(&format!("{table}expires = 2020-01-01\n"));
        assert!(tokens.find(&token).is_none());
        write("");
        assert!(tokens.find(&token).is_none());
        write(&table);
        let found = tokens.find(&token).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!tokens.has(&found) && tokens.find(&token).is_none(), "without a file nobody is let in");
        write("[token");
        assert!(tokens.find(&token).is_none(), "nor by a broken one that comes then");
        write(&table);
        assert!(tokens.has(&found));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Tokens::open(&path).unwrap_err().to_string().contains("chmod"));
        fs::remove_file(&path).unwrap();
    }
}
