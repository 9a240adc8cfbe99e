//! Reads a configuration: file, overrides, check.
//!
//! The TOML tree is deserialized by [`Entry`], which knows the path of every value, so that an error names its key; [`Places`] knows
//! which line of the file or which `--set` a path comes from.

use super::*;
use crate::device::Limits;
use crate::{Error, Result, error::io};
use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Most rows in a minibatch.
const MAX_BATCH: usize = 1 << 20;
/// Most parts of an override's key, more than any key has: tables in tables without end would overflow the stack.
const MAX_DEPTH: usize = 8;
/// Widest layer.
const MAX_WIDTH: usize = 1 << 16;

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked configuration, `data.root` made absolute.
    pub config: Config,
    /// The file.
    pub path: PathBuf,
}

/// A key that gets another value than the file gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// The key's dotted path.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Where it was written, as errors name it: `--set TEXT`, or a file and its line.
    pub place: String,
}

impl Override {
    /// One `--set key.path=value`; a bare word is a string.
    ///
    /// # Errors
    /// No `=`, no key or one that no configuration can have, no value, a number beyond TOML's, or a value that begins like a string,
    /// list or table and is no TOML.
    pub fn parse(text: &str) -> Result<Override> {
        let place = format!("--set {}", one_line(text));
        let wrong = |why: &str| Error::user(format!("{place}: {why}; write --set key.path=value"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("no `=`"))?;
        let (key, value) = (key.trim(), value.trim());
        if key.split('.').any(|part| part.trim().is_empty()) {
            return Err(wrong("no key before the `=`"));
        }
        let depth = key.split('.').count();
        if depth > MAX_DEPTH {
            let start: String = key.chars().take(40).collect();
            return Err(Error::user(format!(
                "--set {start}...: a key of {depth} parts; the configuration has none of so many"
            )));
        }
        if key.contains('[') {
            return Err(wrong("an element of a list is no key; set the whole list"));
        }
        if value.is_empty() {
            return Err(wrong("no value after the `=`"));
        }
        let value = match value.parse::<Value>() {
            // A date is no value of any key, but may be meant as a word.
            Ok(Value::Datetime(_)) => Value::String(value.to_string()),
            Ok(parsed) => parsed,
            Err(e) if value.starts_with(['"', '\'', '[', '{']) => {
                return Err(wrong(&format!("no TOML value: {}", one_line(e.message()))));
            }
            Err(_) if value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<i64>().is_err() => {
                return Err(Error::user(format!("{place}: whole numbers go up to {}", i64::MAX)));
            }
            Err(_) => Value::String(value.to_string()),
        };
        Ok(Override { key: key.to_string(), value, place })
    }
}

impl Loaded {
    /// As [`Loaded::read_with`], the overrides being those of the command line.
    ///
    /// # Errors
    /// Those of [`Override::parse`] and [`Loaded::read_with`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Loaded> {
        let overrides: Vec<Override> = overrides.iter().map(|text| Override::parse(text)).collect::<Result<_>>()?;
        Loaded::read_with(path, &overrides)
    }

    /// Reads `path`, applies the overrides in order, checks everything that can be checked without reading data.
    ///
    /// `data.root` becomes absolute: relative to the file's folder, or to the working directory if an override names it.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, an unknown or missing key, a value of the wrong type or out of range; each names
    /// the file and line, or the override, and the key.
    pub fn read_with(path: &Path, overrides: &[Override]) -> Result<Loaded> {
        let (mut config, places) = read_as::<Config>(path, overrides)?;
        check(&config, &places)?;

        let base = match places.find("data.root") {
            Place::Override(_) => PathBuf::new(),
            Place::Line(_) => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        };
        let base = if base == Path::new("") { std::env::current_dir().map_err(io(path))? } else { base };
        // A trailing separator, as joining an empty root leaves one, goes.
        config.data.root = std::path::absolute(base.join(&config.data.root)).map_err(io(path))?.components().collect();
        Ok(Loaded { config, path: path.to_path_buf() })
    }
}

/// Reads the TOML file `path` into a `T`, with the overrides applied in order, and says where everything was written.
///
/// # Errors
/// A file that cannot be read or is no TOML, an unknown or missing key, a value of the wrong type.
pub(crate) fn read_as<'a, T: for<'de> Deserialize<'de>>(path: &Path, overrides: &'a [Override]) -> Result<(T, Places<'a>)> {
    let text = std::fs::read(path).map_err(io(path))?;
    let text = String::from_utf8(text)
        .map_err(|_| Error::user(format!("{}: not UTF-8; write the configuration as UTF-8 text", path.display())))?;
    let mut places = Places { file: path.display().to_string(), at: BTreeMap::new(), overrides };
    let line_of = |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1;
    let no_toml = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| line_of(span.start));
        Error::user(format!("{}:{line}: no TOML: {}", path.display(), one_line(e.message())))
    };
    places.collect(DeTable::parse(&text).map_err(no_toml)?.get_ref(), "", &line_of);
    let mut tree = text.parse::<toml::Table>().map_err(no_toml)?;
    for (i, Override { key, value, place }) in overrides.iter().enumerate() {
        places.replace(key, i);
        set(&mut tree, key, value.clone())
            .map_err(|parent| Error::user(format!("{place}: key `{parent}` is no table, so there is no `{key}`")))?;
    }
    let root = Entry { value: Value::Table(tree), path: String::new() };
    let value = T::deserialize(root).map_err(|fault| places.error(fault))?;
    Ok((value, places))
}

impl Config {
    /// The configuration as TOML with every key written out. Loads to the same configuration from any folder once `data.root` is
    /// absolute, as [`Loaded::read`] makes it.
    ///
    /// # Errors
    /// A `data.root` that is not UTF-8, or a seed beyond TOML's integers.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::user(format!("configuration: cannot be written as TOML: {}", one_line(&e.to_string()))))
    }
}

/// Puts `value` at `key` in `tree`; the path of the parent that is no table, if one is not.
fn set(tree: &mut toml::Table, key: &str, value: Value) -> std::result::Result<(), String> {
    let parts: Vec<&str> = key.split('.').map(str::trim).collect();
    let mut table = tree;
    for (i, part) in parts[..parts.len() - 1].iter().enumerate() {
        let next = table.entry(part.to_string()).or_insert_with(|| Value::Table(toml::Table::new()));
        table = next.as_table_mut().ok_or_else(|| parts[..=i].join("."))?;
    }
    table.insert(parts[parts.len() - 1].to_string(), value);
    Ok(())
}

/// Where a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// An override, from 0.
    Override(usize),
}

/// Where each path was written.
pub(crate) struct Places<'a> {
    file: String,
    at: BTreeMap<String, Place>,
    overrides: &'a [Override],
}

impl Places<'_> {
    /// Notes the lines of all keys and elements of `table` at `path`.
    fn collect(&mut self, table: &DeTable<'_>, path: &str, line_of: &impl Fn(usize) -> usize) {
        for (key, value) in table.iter() {
            let path = join(path, key.get_ref());
            self.at.insert(path.clone(), Place::Line(line_of(key.span().start)));
            self.collect_value(value.get_ref(), &path, line_of);
        }
    }

    fn collect_value(&mut self, value: &DeValue<'_>, path: &str, line_of: &impl Fn(usize) -> usize) {
        match value {
            DeValue::Table(table) => self.collect(table, path, line_of),
            DeValue::Array(array) => {
                for (i, element) in array.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    self.at.insert(path.clone(), Place::Line(line_of(element.span().start)));
                    self.collect_value(element.get_ref(), &path, line_of);
                }
            }
            _ => {}
        }
    }

    /// Notes that override `i` wrote `key`, and so all below it.
    fn replace(&mut self, key: &str, i: usize) {
        self.at.retain(|path, _| !path.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '['])));
        self.at.insert(key.to_string(), Place::Override(i));
        // Tables that the override made.
        let mut parent = key;
        while let Some((above, _)) = parent.rsplit_once('.') {
            self.at.entry(above.to_string()).or_insert(Place::Override(i));
            parent = above;
        }
    }

    /// Where `path` was written, or else the nearest that holds it.
    fn find(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(&place) = self.at.get(path) {
                return place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Place::Line(1),
            }
        }
    }

    /// `FILE:LINE`, or the override's place.
    pub(crate) fn show(&self, path: &str) -> String {
        match self.find(path) {
            Place::Line(line) => format!("{}:{line}", self.file),
            Place::Override(i) => self.overrides[i].place.clone(),
        }
    }

    /// The error that a value is refused. Where several keys are at odds, it points at the first that is written out.
    pub(crate) fn refuse(&self, keys: &[&str], why: impl Display) -> Error {
        let key = keys.iter().find(|key| self.at.contains_key(**key)).unwrap_or(&keys[0]);
        Error::user(format!("{}: key `{key}` {why}", self.show(key)))
    }

    fn error(&self, fault: Fault) -> Error {
        let path = fault.path.unwrap_or_default();
        let (key, text) = match fault.what {
            What::Unknown { key, allowed } => (join(&path, &key), format!(" is unknown; {}", expected(&key, allowed))),
            What::Missing { key } => (join(&path, key), " is missing; add it".to_string()),
            What::Value(text) => (path, text),
        };
        Error::user(one_line(&format!("{}: key `{key}`{text}", self.show(&key))))
    }
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// Text as part of a one-line message.
pub(crate) fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// `expected one of ..., did you mean ...?`
pub(crate) fn expected(word: &str, allowed: &[&str]) -> String {
    let list = match allowed {
        [] => "expected none".to_string(),
        [only] => format!("expected {only}"),
        _ => format!("expected one of {}", allowed.join(", ")),
    };
    match closest(word, allowed) {
        Some(near) => format!("{list}; did you mean `{near}`?"),
        None => list,
    }
}

/// The one of `allowed` that `word` was most likely meant to be: less than half of its letters differ.
fn closest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let near = allowed.iter().map(|a| (distance(word, a), *a)).min()?;
    (near.0 * 2 < word.chars().count().max(3)).then_some(near.1)
}

/// Letters to insert, delete or replace to get from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// What is wrong, and with the value at which path. A visitor knows no path: the innermost [`Entry`] that it passes adds its own.
#[derive(Debug)]
struct Fault {
    path: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A key that the table at the path does not have.
    Unknown { key: String, allowed: &'static [&'static str] },
    /// A key that the table at the path lacks.
    Missing { key: &'static str },
    /// The value at the path, as text to put behind its name.
    Value(String),
}

impl Fault {
    fn value(text: String) -> Fault {
        Fault { path: None, what: What::Value(text) }
    }

    fn at(mut self, path: &str) -> Fault {
        self.path.get_or_insert_with(|| path.to_string());
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(text: T) -> Self {
        let text = text.to_string();
        // What serde says of an untagged value that fits nothing is the bare description of what would fit.
        Fault::value(if text.starts_with("a ") { format!(": expected {text}") } else { format!(": {text}") })
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "u64" | "usize" | "u32" => "a whole number, 0 or above".to_string(),
            "f32" | "f64" => "a number".to_string(),
            "a sequence" => "a list".to_string(),
            "a string" | "path string" => "a string".to_string(),
            "a boolean" => "true or false".to_string(),
            "a map" => "a table".to_string(),
            other if other.starts_with("struct ") => "a table".to_string(),
            other => other.to_string(),
        };
        Fault::value(format!(" is {found}; expected {expected}"))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, allowed: &'static [&'static str]) -> Self {
        Fault { path: None, what: What::Unknown { key: key.to_string(), allowed } }
    }

    fn unknown_variant(word: &str, allowed: &'static [&'static str]) -> Self {
        Fault::value(format!(" is `{word}`; {}", expected(word, allowed)))
    }

    fn missing_field(key: &'static str) -> Self {
        Fault { path: None, what: What::Missing { key } }
    }
}

/// A value of the tree and its path.
struct Entry {
    value: Value,
    path: String,
}

impl<'de> de::Deserializer<'de> for Entry {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        let Entry { value, path } = self;
        match value {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(flag) => visitor.visit_bool(flag),
            Value::Datetime(date) => Err(de::Error::invalid_type(de::Unexpected::Other(&format!("the date {date}")), &visitor)),
            Value::Array(list) => visitor.visit_seq(List { path: path.clone(), next: 0, rest: list.into_iter() }),
            Value::Table(table) => visitor.visit_map(Keys { path: path.clone(), value: None, rest: table.into_iter() }),
        }
        .map_err(|fault| fault.at(&path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        match self.value {
            Value::String(word) => visitor.visit_enum(word.into_deserializer()),
            other => Err(de::Error::unknown_variant(&one_line(&other.to_string()), variants)),
        }
        .map_err(|fault: Fault| fault.at(&self.path))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// The elements of a list.
struct List {
    path: String,
    next: usize,
    rest: std::vec::IntoIter<Value>,
}

impl<'de> de::SeqAccess<'de> for List {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<Option<T::Value>, Fault> {
        let Some(value) = self.rest.next() else { return Ok(None) };
        let path = format!("{}[{}]", self.path, self.next);
        self.next += 1;
        seed.deserialize(Entry { value, path: path.clone() }).map(Some).map_err(|fault| fault.at(&path))
    }
}

/// The keys of a table.
struct Keys {
    path: String,
    value: Option<Entry>,
    rest: toml::map::IntoIter<String, Value>,
}

impl<'de> de::MapAccess<'de> for Keys {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(Entry { value, path: join(&self.path, &key) });
        seed.deserialize(key.into_deserializer()).map(Some).map_err(|fault: Fault| fault.at(&self.path))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<T::Value, Fault> {
        let entry = self.value.take().ok_or_else(|| Fault::value(": value asked for before its key".into()))?;
        let path = entry.path.clone();
        seed.deserialize(entry).map_err(|fault| fault.at(&path))
    }
}

/// Checks what types alone do not say.
fn check(config: &Config, places: &Places<'_>) -> Result<()> {
    let Config { data, features, model, contrast, loss, optimizer, train, evaluate, .. } = config;
    let refuse = |keys: &[&str], why: String| Err(places.refuse(keys, why));
    let whole = |key: &str, value: usize, least: usize, most: usize| {
        if value < least {
            return refuse(&[key], format!("is {value}; it must be at least {least}"));
        } else if value > most {
            return refuse(&[key], format!("is {value}; it must be at most {most}"));
        }
        Ok(())
    };
    let widths = |key: &str, list: &[usize], needed: bool| {
        if needed && list.is_empty() {
            return refuse(&[key], "is empty; it must hold at least one layer width".into());
        }
        let check = |(i, &width): (usize, &usize)| whole(&format!("{key}[{i}]"), width, 1, MAX_WIDTH);
        list.iter().enumerate().try_for_each(check)
    };
    let not_negative = |key: &str, value: f32| {
        if value.is_finite() && value >= 0.0 {
            Ok(())
        } else {
            refuse(&[key], format!("is {value}; it must be finite and 0 or above"))
        }
    };
    let temperature = |key: &str, value: f32| {
        let [least, most] = TEMPERATURES;
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            refuse(&[key], format!("is {value}; it must be from {least} to {most}"))
        }
    };
    let positive = |key: &str, value: f32| {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            refuse(&[key], format!("is {value}; it must be finite and above 0"))
        }
    };
    let decay = |key: &str, value: f32| {
        if (0.0..1.0).contains(&value) {
            Ok(())
        } else {
            refuse(&[key], format!("is {value}; it must be at least 0 and below 1"))
        }
    };

    for (key, globs) in [("data.train", &data.train), ("data.valid", &data.valid)] {
        if globs.is_empty() {
            return refuse(&[key], "is empty; name at least one file or glob".into());
        }
    }
    if data.click == data.conversion {
        return refuse(
            &["data.conversion", "data.click"],
            format!("is `{}`, as is the other label; name two columns", data.click),
        );
    }
    if features.categorical.is_empty() {
        return refuse(&["features.categorical"], "is empty; name at least one column".into());
    }
    whole("features.dim", features.dim, 1, MAX_WIDTH)?;
    if features.min_count == 0 {
        return refuse(&["features.min_count"], "is 0; it must be at least 1".into());
    }
    let mut seen = BTreeSet::new();
    let categorical = features.categorical.iter().enumerate().map(|(i, c)| (format!("features.categorical[{i}]"), &c.name));
    let numeric = features.numeric.iter().enumerate().map(|(i, n)| (format!("features.numeric[{i}]"), &n.name));
    for (key, name) in categorical.chain(numeric) {
        if name.is_empty() {
            return refuse(&[&key], "is an empty name; name a column".into());
        }
        if [&data.click, &data.conversion].contains(&name) {
            return refuse(&[&key], format!("is the label `{name}`; a label is no feature, leave it out"));
        }
        if !seen.insert(name) {
            return refuse(&[&key], format!("is `{name}`, which is listed before; list each column once"));
        }
    }
    for (i, feature) in features.categorical.iter().enumerate() {
        if let Some(dim) = feature.dim {
            whole(&format!("features.categorical[{i}].dim"), dim, 1, MAX_WIDTH)?;
        }
        if feature.min_count == Some(0) {
            return refuse(&[&format!("features.categorical[{i}].min_count")], "is 0; it must be at least 1".into());
        }
    }
    for (key, name) in [("contrast.mask", &contrast.mask), ("evaluate.gauc", &evaluate.gauc)] {
        if let Some(name) = name
            && !features.categorical.iter().any(|c| c.name == *name)
        {
            let names: Vec<&str> = features.categorical.iter().map(|c| c.name.as_str()).collect();
            return refuse(&[key], format!("is `{name}`, no categorical feature; {}", expected(name, &names)));
        }
    }

    whole("model.experts", model.experts, 1, 1024)?;
    whole("model.task_experts", model.task_experts, 1, 1024)?;
    whole("model.levels", model.levels, 1, 64)?;
    widths("model.hidden", &model.hidden, !matches!(model.encoder, Encoder::Esmm | Encoder::SingleTask))?;
    widths("model.tower", &model.tower, true)?;
    decay("model.dropout", model.dropout)?;
    not_negative("model.embedding_std", model.embedding_std)?;

    not_negative("contrast.weight", contrast.weight)?;
    whole("contrast.width", contrast.width, 1, MAX_WIDTH)?;
    widths("contrast.projection", &contrast.projection, false)?;
    widths("contrast.hidden", &contrast.hidden, false)?;
    not_negative("contrast.rho", contrast.rho)?;
    temperature("contrast.tau_min", contrast.tau_min)?;
    temperature("contrast.tau_max", contrast.tau_max)?;
    let (low, start, high) = (contrast.tau_min, contrast.tau_init, contrast.tau_max);
    if !(low < start && start < high) {
        let keys = ["contrast.tau_init", "contrast.tau_min", "contrast.tau_max"];
        return refuse(&keys, format!("breaks tau_min < tau_init < tau_max: they are {low}, {start}, {high}"));
    }
    not_negative("contrast.temperature_lr_scale", contrast.temperature_lr_scale)?;
    if let Temperature::Fixed(tau) = contrast.temperature {
        temperature("contrast.temperature", tau)?;
    }
    let supervision = contrast.relatedness_supervision;
    not_negative("contrast.relatedness_supervision", supervision)?;
    if supervision > 0.0 && contrast.temperature != Temperature::Instance {
        let why =
            format!("is {supervision}, but only contrast.temperature = \"instance\" has a relatedness network to supervise");
        return refuse(&["contrast.relatedness_supervision", "contrast.temperature"], why);
    }
    let learned = matches!(contrast.temperature, Temperature::Instance | Temperature::Task);
    if learned && !contrast.temperature_gradient && supervision == 0.0 {
        let why = "is false, so the temperature would never learn: set contrast.relatedness_supervision above 0 \
                   (contrast.temperature = \"instance\"), or fix the temperature at a number";
        return refuse(&["contrast.temperature_gradient", "contrast.relatedness_supervision"], why.into());
    }

    for (key, weight) in [("loss.ctr", loss.ctr), ("loss.ctcvr", loss.ctcvr), ("loss.cvr", loss.cvr)] {
        not_negative(key, weight)?;
    }
    not_negative("loss.calibrator", loss.calibrator)?;
    if !(loss.propensity_floor > 0.0 && loss.propensity_floor <= 1.0) {
        return refuse(&["loss.propensity_floor"], format!("is {}; it must be above 0 and at most 1", loss.propensity_floor));
    }
    if model.encoder == Encoder::Aitm && loss.cvr > 0.0 {
        let why = format!("is {}, but aitm's second output is CTCVR: set loss.cvr = 0", loss.cvr);
        return refuse(&["loss.cvr", "model.encoder"], why);
    }
    if loss.ctcvr == 0.0 && loss.cvr == 0.0 {
        return refuse(
            &["loss.ctcvr", "loss.cvr"],
            "is 0, as is the other conversion loss; one of ctcvr, cvr must be above 0".into(),
        );
    }

    let schedule = &optimizer.schedule;
    let (warmup, total) = (schedule.warmup_steps, schedule.total_steps);
    if schedule.kind == ScheduleKind::Cosine && total > 0 && total <= warmup {
        let keys = ["optimizer.schedule.total_steps", "optimizer.schedule.warmup_steps"];
        return refuse(&keys, format!("breaks warmup_steps < total_steps: they are {warmup}, {total}"));
    }
    let fraction = schedule.final_fraction;
    if !(0.0..=1.0).contains(&fraction) {
        return refuse(&["optimizer.schedule.final_fraction"], format!("is {fraction}; it must be at least 0 and at most 1"));
    }
    if schedule.every == 0 {
        return refuse(&["optimizer.schedule.every"], "is 0; it must be at least 1".into());
    }
    positive("optimizer.schedule.gamma", schedule.gamma)?;

    let (dense, embedding) = (&optimizer.dense, &optimizer.embedding);
    positive("optimizer.dense.lr", dense.lr)?;
    decay("optimizer.dense.beta1", dense.beta1)?;
    decay("optimizer.dense.beta2", dense.beta2)?;
    positive("optimizer.dense.eps", dense.eps)?;
    not_negative("optimizer.dense.weight_decay", dense.weight_decay)?;
    not_negative("optimizer.dense.clip_norm", dense.clip_norm)?;
    positive("optimizer.embedding.lr", embedding.lr)?;
    decay("optimizer.embedding.beta1", embedding.beta1)?;
    decay("optimizer.embedding.beta2", embedding.beta2)?;
    positive("optimizer.embedding.eps", embedding.eps)?;
    not_negative("optimizer.embedding.l2", embedding.l2)?;

    whole("train.batch_size", train.batch_size, 1, MAX_BATCH)?;
    whole("train.evaluate_batch_size", train.evaluate_batch_size, 1, MAX_BATCH)?;
    for (key, value) in [("train.epochs", train.epochs), ("train.patience", train.patience)] {
        whole(key, usize::try_from(value).unwrap_or(usize::MAX), 1, u32::MAX as usize)?;
    }
    whole("train.memory_mib", usize::try_from(train.memory_mib).unwrap_or(usize::MAX), 0, 1 << 24)?;
    // Ops that look across rows see a whole column of the minibatch at once, so it must fit a binding.
    let batch = train.batch_size;
    let fits = |key: &str, columns: usize| match batch.checked_mul(columns) {
        Some(numbers) if numbers as u64 * 4 <= Limits::GUARANTEED_BINDING => Ok(()),
        _ => {
            let most = Limits::GUARANTEED_BINDING / 4;
            let why =
                format!("makes {columns} x {batch} (train.batch_size) numbers; at most {most} fit every GPU, so lower one");
            refuse(&[key, "train.batch_size"], why)
        }
    };
    fits("features.dim", features.dim)?;
    for (i, c) in features.categorical.iter().enumerate() {
        fits(&format!("features.categorical[{i}].dim"), c.dim.unwrap_or(1))?;
    }
    if contrast.temperature != Temperature::Off {
        fits("contrast.width", 2 * contrast.width)?;
        if batch < 2 {
            let why = format!("is {batch}, but the contrast needs another row: at least 2, or contrast.temperature = \"off\"");
            return refuse(&["train.batch_size"], why);
        }
        if let Negatives::Sampled(k) = contrast.negatives
            && k >= batch
        {
            let why = format!("is {k}; it must be below train.batch_size, which is {batch}");
            return refuse(&["contrast.negatives"], why);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least configuration, on five lines.
    const LEAST: &str = "[data]\ntrain = [\"t.csv\"]\nvalid = [\"v.csv\"]\n[features]\ncategorical = [\"user\", \"item\"]\n";

    /// Loads `LEAST` with `more` behind it.
    fn load(more: &str, overrides: &[&str]) -> std::result::Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, format!("{LEAST}{more}")).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        match Loaded::read(&path, &overrides) {
            Ok(loaded) => Ok(loaded.config),
            Err(e) => Err(e.to_string().replace(&format!("{}/", folder.path().display()), "")),
        }
    }

    fn error(more: &str, overrides: &[&str]) -> String {
        let error = load(more, overrides).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn syntax_and_keys() {
        insta::assert_snapshot!(error("numeric = [\n", &[]), @"c.toml:6: no TOML: unclosed array, expected `]`");
        insta::assert_snapshot!(error("[model]\nencodr = \"mmoe\"", &[]), @"c.toml:7: key `model.encodr` is unknown; expected one of encoder, experts, task_experts, levels, hidden, tower, activation, norm, dropout, embedding_std; did you mean `encoder`?");
        insta::assert_snapshot!(error("[modle]", &[]), @"c.toml:6: key `modle` is unknown; expected one of seed, data, features, model, contrast, loss, optimizer, train, evaluate; did you mean `model`?");
        insta::assert_snapshot!(error("[model]\n\nencoder = \"mmoes\"", &[]), @"c.toml:8: key `model.encoder` is `mmoes`; expected one of single-task, esmm, shared-bottom, mmoe, ple, cross-stitch, aitm; did you mean `mmoe`?");
        insta::assert_snapshot!(error("[model]\nencoder = 3", &[]), @"c.toml:7: key `model.encoder` is `3`; expected one of single-task, esmm, shared-bottom, mmoe, ple, cross-stitch, aitm");
        insta::assert_snapshot!(error("", &["model.encodr=mmoe"]), @"--set model.encodr=mmoe: key `model.encodr` is unknown; expected one of encoder, experts, task_experts, levels, hidden, tower, activation, norm, dropout, embedding_std; did you mean `encoder`?");
        insta::assert_snapshot!(error("", &["data.root.x=1", "data.root=3"]), @"--set data.root=3: key `data.root` is integer `3`; expected a string");
    }

    #[test]
    fn types() {
        insta::assert_snapshot!(error("[train]\nbatch_size = -1", &[]), @"c.toml:7: key `train.batch_size` is integer `-1`; expected a whole number, 0 or above");
        insta::assert_snapshot!(error("[train]\nbatch_size = \"a\"", &[]), @r#"c.toml:7: key `train.batch_size` is string "a"; expected a whole number, 0 or above"#);
        insta::assert_snapshot!(error("[model]\nhidden = [\n8,\n\"x\"]", &[]), @r#"c.toml:9: key `model.hidden[1]` is string "x"; expected a whole number, 0 or above"#);
        insta::assert_snapshot!(error("[optimizer]\ndense = 1", &[]), @"c.toml:7: key `optimizer.dense` is integer `1`; expected a table");
        insta::assert_snapshot!(error("numeric = [\"a\",\n{ name = \"n\", transfrm = \"log1p\" }]", &[]), @"c.toml:7: key `features.numeric[1]`: expected a column name or { name, transform }, transform one of none, log1p, standardize, log1p-standardize");
        insta::assert_snapshot!(error("", &["contrast.temperature=warm"]), @"--set contrast.temperature=warm: key `contrast.temperature`: unknown temperature `warm`, expected `off`, `instance`, `task` or a number");
        insta::assert_snapshot!(error("", &["data.train=a.csv"]), @r#"--set data.train=a.csv: key `data.train` is string "a.csv"; expected a list"#);
        insta::assert_snapshot!(error("", &["seed=1979-05-27"]), @r#"--set seed=1979-05-27: key `seed` is string "1979-05-27"; expected a whole number, 0 or above"#);
    }

    #[test]
    fn overrides() {
        let config =
            load("", &["train.batch_size = 7", "optimizer.dense.kind=sgd", "features.numeric=[\"a\"]", "data.root=/x/y"])
                .unwrap();
        assert_eq!((config.train.batch_size, config.optimizer.dense.kind), (7, DenseRule::Sgd));
        assert_eq!((config.features.numeric.len(), config.data.root), (1, PathBuf::from("/x/y")));
        insta::assert_snapshot!(error("", &["seed"]), @"--set seed: no `=`; write --set key.path=value");
        insta::assert_snapshot!(error("", &["a..b=1"]), @"--set a..b=1: no key before the `=`; write --set key.path=value");
        insta::assert_snapshot!(error("", &["seed="]), @"--set seed=: no value after the `=`; write --set key.path=value");
        insta::assert_snapshot!(error("", &["data.train=[\"a\""]), @r#"--set data.train=["a": no TOML value: unclosed array, expected `]`; write --set key.path=value"#);
        insta::assert_snapshot!(error("", &["seed=18446744073709551615"]), @"--set seed=18446744073709551615: whole numbers go up to 9223372036854775807");
        insta::assert_snapshot!(error("", &["features.categorical[0].dim=8"]), @"--set features.categorical[0].dim=8: an element of a list is no key; set the whole list; write --set key.path=value");
        let deep = format!("{}a=1", "a.".repeat(60_000));
        insta::assert_snapshot!(error("", &[&deep]), @"--set a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a....: a key of 60001 parts; the configuration has none of so many");
        insta::assert_snapshot!(error("", &["data.train.x=1"]), @"--set data.train.x=1: key `data.train` is no table, so there is no `data.train.x`");
    }

    #[test]
    fn root_is_relative_to_the_file_or_for_overrides_to_the_working_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, LEAST).unwrap();
        let root = |overrides: &[String]| Loaded::read(&path, overrides).unwrap().config.data.root;
        assert_eq!(root(&[]), folder.path());
        assert_eq!(root(&["data.root=data".into()]), std::env::current_dir().unwrap().join("data"));
        std::fs::write(&path, LEAST.replace("[data]", "[data]\nroot = \"log\"")).unwrap();
        assert_eq!(root(&[]), folder.path().join("log"));
    }

    #[test]
    fn meaning() {
        for (more, overrides, expected) in [
            ("[train]\nbatch_size = 0", &[][..], "c.toml:7: key `train.batch_size` is 0; it must be at least 1"),
            ("", &["train.batch_size=1048577"], "key `train.batch_size` is 1048577; it must be at most 1048576"),
            ("", &["train.epochs=0"], "key `train.epochs` is 0; it must be at least 1"),
            ("[model]\ntower = [8, 0]", &[], "c.toml:7: key `model.tower[1]` is 0; it must be at least 1"),
            (
                "dim = 64\n[train]\nbatch_size = 1048576",
                &[],
                "c.toml:6: key `features.dim` makes 64 x 1048576 (train.batch_size) numbers; at most 33554432 fit every GPU, so lower one",
            ),
            ("[model]\nhidden = []", &[], "c.toml:7: key `model.hidden` is empty; it must hold at least one layer width"),
            ("", &["model.dropout=1"], "key `model.dropout` is 1; it must be at least 0 and below 1"),
            ("", &["model.experts=0"], "key `model.experts` is 0; it must be at least 1"),
            ("", &["features.categorical=[]"], "key `features.categorical` is empty; name at least one column"),
            (
                "numeric = [\"age\",\n  \"user\"]",
                &[],
                "c.toml:7: key `features.numeric[1]` is `user`, which is listed before; list each column once",
            ),
            (
                "numeric = [\"click\"]",
                &[],
                "c.toml:6: key `features.numeric[0]` is the label `click`; a label is no feature, leave it out",
            ),
            (
                "",
                &["data.click=conversion"],
                "--set data.click=conversion: key `data.click` is `conversion`, as is the other label; name two columns",
            ),
            ("[contrast]\ntau_min = 0.0", &[], "c.toml:7: key `contrast.tau_min` is 0; it must be from 0.0001 to 10000"),
            (
                "[contrast]\ntau_min = 0.5",
                &[],
                "c.toml:7: key `contrast.tau_min` breaks tau_min < tau_init < tau_max: they are 0.5, 0.2, 1",
            ),
            ("", &["contrast.projection=[8, 0]"], "key `contrast.projection[1]` is 0; it must be at least 1"),
            ("", &["model.norm=layr"], "key `model.norm` is `layr`; expected one of none, layer, batch; did you mean `layer`?"),
            (
                "",
                &["loss.weighting=uncertain"],
                "key `loss.weighting` is `uncertain`; expected one of fixed, uncertainty; did you mean `uncertainty`?",
            ),
            ("", &["contrast.temperature=0"], "key `contrast.temperature` is 0; it must be from 0.0001 to 10000"),
            ("", &["contrast.tau_max=1e5"], "key `contrast.tau_max` is 100000; it must be from 0.0001 to 10000"),
            ("", &["contrast.weight=nan"], "key `contrast.weight` is NaN; it must be finite and 0 or above"),
            (
                "",
                &["contrast.temperature_lr_scale=-1"],
                "key `contrast.temperature_lr_scale` is -1; it must be finite and 0 or above",
            ),
            (
                "",
                &["contrast.relatedness_supervision=-1"],
                "key `contrast.relatedness_supervision` is -1; it must be finite and 0 or above",
            ),
            (
                "[contrast]\ntemperature = \"task\"\nrelatedness_supervision = 0.5",
                &[],
                "c.toml:8: key `contrast.relatedness_supervision` is 0.5, but only contrast.temperature = \"instance\" has a relatedness \
                 network to supervise",
            ),
            (
                "",
                &["contrast.temperature_gradient=false"],
                "key `contrast.temperature_gradient` is false, so the temperature would never learn: set \
                 contrast.relatedness_supervision above 0 (contrast.temperature = \"instance\"), or fix the temperature at a number",
            ),
            ("", &["loss.ctr=-1"], "key `loss.ctr` is -1; it must be finite and 0 or above"),
            (
                "[loss]\nctcvr = 0\ncvr = 0",
                &[],
                "c.toml:7: key `loss.ctcvr` is 0, as is the other conversion loss; one of ctcvr, cvr must be above 0",
            ),
            (
                "[optimizer.schedule]\nkind = \"cosine\"\nwarmup_steps = 9\ntotal_steps = 9",
                &[],
                "c.toml:9: key `optimizer.schedule.total_steps` breaks warmup_steps < total_steps: they are 9, 9",
            ),
            (
                "",
                &["optimizer.schedule.final_fraction=1.5"],
                "key `optimizer.schedule.final_fraction` is 1.5; it must be at least 0 and at most 1",
            ),
            ("", &["optimizer.schedule.every=0"], "key `optimizer.schedule.every` is 0; it must be at least 1"),
            ("", &["optimizer.schedule.gamma=0"], "key `optimizer.schedule.gamma` is 0; it must be finite and above 0"),
            (
                "",
                &["optimizer.schedule.kind=cosin"],
                "key `optimizer.schedule.kind` is `cosin`; expected one of constant, cosine, step; did you mean `cosine`?",
            ),
            ("", &["optimizer.dense.lr=inf"], "key `optimizer.dense.lr` is inf; it must be finite and above 0"),
            ("", &["optimizer.dense.clip_norm=-1"], "key `optimizer.dense.clip_norm` is -1; it must be finite and 0 or above"),
            ("", &["optimizer.embedding.l2=nan"], "key `optimizer.embedding.l2` is NaN; it must be finite and 0 or above"),
            ("", &["optimizer.embedding.beta2=1"], "key `optimizer.embedding.beta2` is 1; it must be at least 0 and below 1"),
            (
                "",
                &["contrast.mask=usr"],
                "key `contrast.mask` is `usr`, no categorical feature; expected one of user, item; did you mean `user`?",
            ),
            ("", &["evaluate.gauc=age"], "key `evaluate.gauc` is `age`, no categorical feature; expected one of user, item"),
            (
                "",
                &["train.batch_size=1"],
                "key `train.batch_size` is 1, but the contrast needs another row: at least 2, or contrast.temperature = \"off\"",
            ),
            (
                "",
                &["contrast.negatives=1024"],
                "key `contrast.negatives` is 1024; it must be below train.batch_size, which is 1024",
            ),
            ("", &["data.valid=[]"], "key `data.valid` is empty; name at least one file or glob"),
        ] {
            let error = error(more, overrides);
            assert!(error.ends_with(expected), "{error}\n{expected}");
            assert!(overrides.is_empty() || error.starts_with(&format!("--set {}: ", overrides[0])), "{error}");
        }
        insta::assert_snapshot!(load("", &["train.batch_size=1", "contrast.temperature=off"]).unwrap().train.batch_size, @"1");
        let alone = ["contrast.temperature_gradient=false", "contrast.relatedness_supervision=0.5"];
        assert!(!load("", &alone).unwrap().contrast.temperature_gradient);
    }

    #[test]
    fn missing_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Loaded::read(&path, &[]).unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "")
        };
        insta::assert_snapshot!(error("seed = 1"), @"c.toml:1: key `data` is missing; add it");
        insta::assert_snapshot!(error("\n[data]\ntrain = []"), @"c.toml:2: key `data.valid` is missing; add it");
    }

    #[test]
    fn resolved_configuration_loads_to_itself() {
        let more = "numeric = [{ name = \"age\", transform = \"log1p-standardize\" }, \"x\"]\n[contrast]\ntemperature = 0.1\n\
                    negatives = 3\nmask = \"user\"\n[optimizer.dense]\nlr = 0.0003\n[evaluate]\ngauc = \"item\"";
        let config = load(more, &["seed=9223372036854775807"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, config.to_toml().unwrap()).unwrap();
        assert_eq!(Loaded::read(&path, &[]).unwrap().config, config);
    }
}
