//! What to compare: a suite's file, its grids multiplied out, every configuration checked.

use crate::config::{Config, Loaded, Override, Places, expected, join, one_line, read_as};
use crate::data::dataset::{Difference, Settings, Split};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Most variants of a suite, and most seeds.
const MOST: usize = 1000;

/// A suite: variants of one configuration to train under the same seeds on one dataset.
#[derive(Debug, Clone)]
pub struct Suite {
    /// The split that is measured.
    pub split: Split,
    /// The seeds, each once.
    pub seeds: Vec<u64>,
    /// The number of the variant that the others are compared with.
    pub baseline: usize,
    /// The variants, in order of the file; the points of a model's grid one after the other.
    pub variants: Vec<Variant>,
}

/// A model, or a point of its grid.
#[derive(Debug, Clone)]
pub struct Variant {
    /// The model's name, followed by `key=value` for each key of the grid.
    pub name: String,
    /// The configuration; its seed is 0, since each run has its own.
    pub loaded: Loaded,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The configuration that all variants start from, relative to the suite's folder.
    config: PathBuf,
    seeds: Seeds,
    /// A variant, or a model, which stands for its first variant; none: the first of all.
    baseline: Option<String>,
    /// None: test where the configuration has one, else valid.
    split: Option<Split>,
    /// Overrides of all variants.
    #[serde(default)]
    set: Table,
    /// Keys with lists of values, for each model that does not set the key itself.
    #[serde(default)]
    grid: Table,
    model: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: String,
    #[serde(default)]
    set: Table,
    #[serde(default)]
    grid: Table,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a list of whole numbers, or how many (n for 1 to n)")]
enum Seeds {
    Number(u64),
    List(Vec<u64>),
}

impl Suite {
    /// Reads the suite in `path` and the configuration of each of its variants. `sets` are overrides of the command line, which have
    /// the last word.
    ///
    /// # Errors
    ///
    /// Those of reading the configurations; an unknown key; an empty list; a name that is there twice; a baseline that is no
    /// model; a seed that is no seed of the suite's own; variants that need different datasets; a split without files.
    pub fn read(path: &Path, sets: &[String]) -> Result<Suite> {
        let sets: Vec<Override> = sets.iter().map(|text| Override::parse(text)).collect::<Result<_>>()?;
        if let Some(set) = sets.iter().find(|set| set.key == "seed") {
            return Err(Error::user(format!("{}: the suite's `seeds` give the seeds; change them there", set.place)));
        }
        let (file, places) = read_as::<File>(path, &[])?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let seeds = seeds(&file.seeds, &places)?;
        if file.model.is_empty() {
            return Err(places.refuse(&["model"], "is empty; name at least one model"));
        }

        let reader = Reader { folder, places: &places };
        let common = reader.values(&file.set, "set")?;
        let grid = reader.grid(&file.grid, "grid", &common)?;
        let mut variants: Vec<Variant> = Vec::new();
        // The number of each model's first variant.
        let mut first = Vec::new();
        for (i, model) in file.model.iter().enumerate() {
            let at = format!("model[{i}]");
            let name_at = join(&at, "name");
            if model.name.trim().is_empty() || model.name.chars().any(char::is_control) {
                return Err(places.refuse(&[&name_at], "is no name; give letters in one line"));
            }
            let own = reader.values(&model.set, &join(&at, "set"))?;
            let mut axes = grid.clone();
            axes.retain(|key, _| !own.contains_key(key));
            axes.extend(reader.grid(&model.grid, &join(&at, "grid"), &own)?);
            let points = axes.values().try_fold(1usize, |n, axis| n.checked_mul(axis.len())).unwrap_or(usize::MAX);
            if points > MOST - variants.len() {
                return Err(
                    places.refuse(&[&join(&at, "grid"), "grid"], format!("makes more than {MOST} variants; shorten it"))
                );
            }
            first.push(variants.len());
            for point in product(&axes) {
                let name =
                    std::iter::once(model.name.clone()).chain(point.iter().map(|o| show(o))).collect::<Vec<_>>().join(" ");
                if variants.iter().any(|v| v.name == name) {
                    let why = format!("makes a second variant `{name}`; give each its own name");
                    return Err(places.refuse(&[&name_at], why));
                }
                let overrides: Vec<Override> = common.values().chain(own.values()).chain(point).chain(&sets).cloned().collect();
                let mut loaded = Loaded::read_with(&folder.join(&file.config), &overrides)?;
                loaded.config.seed = 0;
                if let Some(one) = variants.first()
                    && let Some(Difference { key, one: a, other: b }) = other_dataset(&one.loaded.config, &loaded.config)
                {
                    let why = format!("makes `{name}` with {key} {b}, but `{}` has {a}; a suite has one dataset", one.name);
                    return Err(places.refuse(&[&at], why));
                }
                variants.push(Variant { name, loaded });
            }
        }

        let baseline = match &file.baseline {
            None => 0,
            Some(name) => {
                let model = file.model.iter().position(|m| m.name == *name).map(|i| first[i]);
                variants.iter().position(|v| v.name == *name).or(model).ok_or_else(|| {
                    let names: Vec<&str> = file.model.iter().map(|m| m.name.as_str()).collect();
                    places.refuse(&["baseline"], format!("is `{name}`, no model; {}", expected(name, &names)))
                })?
            }
        };
        let test = variants.iter().any(|v| !v.loaded.config.data.test.is_empty());
        let split = file.split.unwrap_or(if test { Split::Test } else { Split::Valid });
        if split == Split::Test && !test {
            return Err(places.refuse(&["split"], "is `test`, but data.test names no files; name them, or measure on `valid`"));
        }
        Ok(Suite { split, seeds, baseline, variants })
    }
}

/// The setting in which two configurations need different datasets, if they do.
pub(super) fn other_dataset(one: &Config, other: &Config) -> Option<Difference> {
    let (a, b) = (&one.data, &other.data);
    if a.root != b.root {
        let show = |root: &Path| format!("{:?}", root.display().to_string());
        return Some(Difference { key: "data.root".into(), one: show(&a.root), other: show(&b.root) });
    }
    for (split, a, b) in [("train", &a.train, &b.train), ("valid", &a.valid, &b.valid), ("test", &a.test, &b.test)] {
        if a != b {
            return Some(Difference { key: format!("data.{split}"), one: format!("{a:?}"), other: format!("{b:?}") });
        }
    }
    Settings::of(one).difference(&Settings::of(other))
}

fn seeds(seeds: &Seeds, places: &Places) -> Result<Vec<u64>> {
    let list = match seeds {
        Seeds::Number(n) if (1..=MOST as u64).contains(n) => (1..=*n).collect(),
        Seeds::Number(n) => {
            return Err(places.refuse(&["seeds"], format!("is {n}; it must be a list, or a number from 1 to {MOST}")));
        }
        Seeds::List(list) => list.clone(),
    };
    if list.is_empty() {
        return Err(places.refuse(&["seeds"], "is empty; name at least one seed"));
    }
    if list.len() > MOST {
        return Err(places.refuse(&["seeds"], format!("has {} seeds; at most {MOST} will do", list.len())));
    }
    for (i, seed) in list.iter().enumerate() {
        if list[..i].contains(seed) {
            let why = format!("is {seed}, which is listed before; list each seed once");
            return Err(places.refuse(&[&format!("seeds[{i}]")], why));
        }
    }
    Ok(list)
}

/// Reads tables of keys of the configuration.
struct Reader<'a> {
    folder: &'a Path,
    places: &'a Places<'a>,
}

impl Reader<'_> {
    /// The keys of `table`, which stands at `at`, with their values.
    fn values(&self, table: &Table, at: &str) -> Result<BTreeMap<String, Override>> {
        let mut found = BTreeMap::new();
        self.flatten(table, at, "", &mut |key, path, value| {
            found.insert(key.to_string(), self.over(key, path, value));
            Ok(())
        })?;
        Ok(found)
    }

    /// The keys of the grid `table`, which stands at `at`, with their lists; none of them may be in `set`.
    fn grid(&self, table: &Table, at: &str, set: &BTreeMap<String, Override>) -> Result<BTreeMap<String, Vec<Override>>> {
        let mut found = BTreeMap::new();
        self.flatten(table, at, "", &mut |key, path, value| {
            let list = value.as_array().ok_or_else(|| {
                self.places.refuse(&[path], format!("is {}; expected a list of values", one_line(&value.to_string())))
            })?;
            if list.is_empty() {
                return Err(self.places.refuse(&[path], "is empty; name at least one value"));
            }
            if set.contains_key(key) {
                return Err(self.places.refuse(&[path], "is in `set` as well; leave one of the two out"));
            }
            let axis = list.iter().enumerate().map(|(i, value)| self.over(key, &format!("{path}[{i}]"), value)).collect();
            found.insert(key.to_string(), axis);
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `take` with the dotted key, the path in the file and the value of each key in `table` and the tables within.
    fn flatten(
        &self,
        table: &Table,
        at: &str,
        above: &str,
        take: &mut dyn FnMut(&str, &str, &Value) -> Result<()>,
    ) -> Result<()> {
        for (key, value) in table {
            let (path, key) = (join(at, key), join(above, key));
            match value {
                Value::Table(table) => self.flatten(table, &path, &key, take)?,
                _ if key == "seed" => {
                    return Err(self.places.refuse(&[&path], "is no key to vary; the suite's `seeds` give the seeds"));
                }
                _ => take(&key, &path, value)?,
            }
        }
        Ok(())
    }

    fn over(&self, key: &str, path: &str, value: &Value) -> Override {
        let value = match value {
            // What a file says is relative to the file, and not to the working directory as what the command line says.
            Value::String(root) if key == "data.root" => Value::String(self.folder.join(root).display().to_string()),
            value => value.clone(),
        };
        Override { key: key.to_string(), value, place: self.places.show(path) }
    }
}

/// All points of a grid, the last key varying fastest; one without overrides where there is no key.
fn product(axes: &BTreeMap<String, Vec<Override>>) -> Vec<Vec<&Override>> {
    axes.values().fold(vec![Vec::new()], |points, axis| {
        points.iter().flat_map(|point| axis.iter().map(|value| [&point[..], &[value]].concat())).collect()
    })
}

/// `key=value` as part of a name.
fn show(Override { key, value, .. }: &Override) -> String {
    match value {
        Value::String(word) => format!("{key}={}", one_line(word)),
        value => format!("{key}={}", one_line(&value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Encoder, Temperature};

    const CONFIG: &str = "seed = 7\n[data]\ntrain = [\"t.csv\"]\nvalid = [\"v.csv\"]\ntest = [\"e.csv\"]\n\
                          [features]\ncategorical = [\"user\", \"item\"]\n";
    const HEAD: &str = "config = \"c.toml\"\nseeds = 2\n";

    fn read(suite: &str, sets: &[&str]) -> std::result::Result<Suite, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.toml"), CONFIG).unwrap();
        let path = folder.path().join("s.toml");
        std::fs::write(&path, suite).unwrap();
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let read = Suite::read(&path, &sets);
        read.map_err(|e| e.to_string().replace(&folder.path().display().to_string(), "DIR").replace("DIR/", ""))
    }

    fn error(suite: &str, sets: &[&str]) -> String {
        let error = read(suite, sets).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    fn names(suite: &Suite) -> Vec<&str> {
        suite.variants.iter().map(|v| v.name.as_str()).collect()
    }

    #[test]
    fn models_sets_and_grids() {
        let suite = read(
            &format!(
                "{HEAD}baseline = \"aligned\"\n[set]\ntrain.epochs = 3\n\"model.experts\" = 2\n[grid]\n\"contrast.weight\" = [0.1, 0.2]\n\
                 [[model]]\nname = \"plain\"\nset = {{ \"model.encoder\" = \"shared-bottom\", contrast = {{ temperature = \"off\", weight = 0 }} }}\n\
                 [[model]]\nname = \"aligned\"\nset = {{ \"model.experts\" = 3 }}\n\
                 grid = {{ \"contrast.temperature\" = [0.1, \"instance\"] }}\n"
            ),
            &["train.batch_size=8"],
        )
        .unwrap();
        assert_eq!(
            names(&suite),
            [
                "plain",
                "aligned contrast.temperature=0.1 contrast.weight=0.1",
                "aligned contrast.temperature=0.1 contrast.weight=0.2",
                "aligned contrast.temperature=instance contrast.weight=0.1",
                "aligned contrast.temperature=instance contrast.weight=0.2",
            ]
        );
        assert_eq!((suite.baseline, &suite.seeds[..], suite.split), (1, &[1, 2][..], Split::Test));
        let config = |i: usize| &suite.variants[i].loaded.config;
        assert_eq!((config(0).model.encoder, config(4).model.encoder), (Encoder::SharedBottom, Encoder::Mmoe));
        assert_eq!(
            (config(0).contrast.temperature, config(2).contrast.temperature),
            (Temperature::Off, Temperature::Fixed(0.1))
        );
        assert_eq!((config(0).contrast.weight, config(2).contrast.weight), (0.0, 0.2));
        assert_eq!((config(0).model.experts, config(1).model.experts), (2, 3));
        assert!((0..5).all(|i| config(i).train.epochs == 3 && config(i).train.batch_size == 8 && config(i).seed == 0));
    }

    #[test]
    fn small_suites() {
        let suite = read("config = \"c.toml\"\nseeds = [3, 1]\nsplit = \"valid\"\n[[model]]\nname = \"a\"", &[]).unwrap();
        assert_eq!((names(&suite), suite.baseline, &suite.seeds[..], suite.split), (vec!["a"], 0, &[3, 1][..], Split::Valid));
        let suite = read(&format!("{HEAD}[[model]]\nname = \"a\""), &["data.test=[]"]).unwrap();
        assert_eq!(suite.split, Split::Valid);
        // A variant by its full name; the command line's folder is as it was given, the file's is relative to the file.
        let grid =
            "baseline = \"a features.dim=4\"\n[set]\ndata.root = \"log\"\n[[model]]\nname = \"a\"\ngrid.features.dim = [2, 4]";
        let suite = read(&format!("{HEAD}{grid}"), &[]).unwrap();
        assert_eq!(suite.baseline, 1);
        assert!(suite.variants[1].loaded.config.data.root.ends_with("log"));
        let suite = read(&format!("{HEAD}{grid}"), &["data.root=/x"]).unwrap();
        assert_eq!(suite.variants[0].loaded.config.data.root, Path::new("/x"));
    }

    #[test]
    fn what_is_refused() {
        let with = |rest: &str| error(&format!("{HEAD}{rest}"), &[]);
        let model = |rest: &str| with(&format!("[[model]]\nname = \"a\"\n{rest}"));
        insta::assert_snapshot!(with("[[model]"), @"s.toml:3: no TOML: unclosed array table, expected `]`");
        insta::assert_snapshot!(with("modle = 1"), @"s.toml:3: key `modle` is unknown; expected one of config, seeds, baseline, split, set, grid, model; did you mean `model`?");
        insta::assert_snapshot!(with(""), @"s.toml:1: key `model` is missing; add it");
        insta::assert_snapshot!(with("model = []"), @"s.toml:3: key `model` is empty; name at least one model");
        insta::assert_snapshot!(model("sets = 1"), @"s.toml:5: key `model[0].sets` is unknown; expected one of name, set, grid; did you mean `set`?");
        insta::assert_snapshot!(model("set = 1"), @"s.toml:5: key `model[0].set` is integer `1`; expected a table");
        insta::assert_snapshot!(model("[[model]]\nset = {}"), @"s.toml:5: key `model[1].name` is missing; add it");
        insta::assert_snapshot!(model("[[model]]\nname = \"a\""), @"s.toml:6: key `model[1].name` makes a second variant `a`; give each its own name");
        insta::assert_snapshot!(model("[[model]]\nname = \"\""), @"s.toml:6: key `model[1].name` is no name; give letters in one line");
        insta::assert_snapshot!(model("grid.model.experts = [2, 2]"), @"s.toml:4: key `model[0].name` makes a second variant `a model.experts=2`; give each its own name");
        insta::assert_snapshot!(model("grid.model.experts = 2"), @"s.toml:5: key `model[0].grid.model.experts` is 2; expected a list of values");
        insta::assert_snapshot!(model("grid.model.experts = []"), @"s.toml:5: key `model[0].grid.model.experts` is empty; name at least one value");
        insta::assert_snapshot!(model("set.model.experts = 2\ngrid.\"model.experts\" = [3]"), @"s.toml:6: key `model[0].grid.model.experts` is in `set` as well; leave one of the two out");
        insta::assert_snapshot!(model("grid.seed = [3]"), @"s.toml:5: key `model[0].grid.seed` is no key to vary; the suite's `seeds` give the seeds");
        insta::assert_snapshot!(model("set.seed = 3"), @"s.toml:5: key `model[0].set.seed` is no key to vary; the suite's `seeds` give the seeds");
        insta::assert_snapshot!(model("set.model.encoder = \"mmo\""), @"s.toml:5: key `model.encoder` is `mmo`; expected one of single-task, esmm, shared-bottom, mmoe, ple, cross-stitch, aitm; did you mean `mmoe`?");
        insta::assert_snapshot!(model("grid.model.encodr = [\n\"mmoe\"]"), @"s.toml:6: key `model.encodr` is unknown; expected one of encoder, experts, task_experts, levels, hidden, tower, activation, norm, dropout, embedding_std; did you mean `encoder`?");
        insta::assert_snapshot!(model("grid.contrast.temperature = [\n0.1,\n0]"), @"s.toml:7: key `contrast.temperature` is 0; it must be from 0.0001 to 10000");
        insta::assert_snapshot!(model("set.seeds.x = 1"), @"s.toml:5: key `seeds` is unknown; expected one of seed, data, features, model, contrast, loss, optimizer, train, evaluate; did you mean `seed`?");
        insta::assert_snapshot!(model("[[model]]\nname = \"b\"\nset.features.min_count = 2"), @"s.toml:5: key `model[1]` makes `b` with min_count of feature `user` 2, but `a` has 1; a suite has one dataset");
        insta::assert_snapshot!(model("[[model]]\nname = \"b\"\nset.data.train = [\"u.csv\"]"), @r#"s.toml:5: key `model[1]` makes `b` with data.train ["u.csv"], but `a` has ["t.csv"]; a suite has one dataset"#);
        insta::assert_snapshot!(with("baseline = \"mmo\"\n[[model]]\nname = \"mmoe\""), @"s.toml:3: key `baseline` is `mmo`, no model; expected mmoe; did you mean `mmoe`?");
        insta::assert_snapshot!(with("split = \"tset\"\n[[model]]\nname = \"a\""), @"s.toml:3: key `split` is `tset`; expected one of train, valid, test");
        insta::assert_snapshot!(with("split = \"test\"\n[set]\ndata.test = []\n[[model]]\nname = \"a\""), @"s.toml:3: key `split` is `test`, but data.test names no files; name them, or measure on `valid`");
        for seeds in ["0", "[]", "[1, 2, 1]", "-1", "\"a\""] {
            let text = error(&format!("config = \"c.toml\"\nseeds = {seeds}\n[[model]]\nname = \"a\""), &[]);
            assert!(text.starts_with("s.toml:2: key `seeds"), "{text}");
        }
        insta::assert_snapshot!(error("config = \"c.toml\"\nseeds = [1, -1]\n[[model]]\nname = \"a\"", &[]), @"s.toml:2: key `seeds`: expected a list of whole numbers, or how many (n for 1 to n)");
        insta::assert_snapshot!(error("config = \"d.toml\"\nseeds = 1\n[[model]]\nname = \"a\"", &[]), @"d.toml: No such file or directory (os error 2)");
        insta::assert_snapshot!(error(&format!("{HEAD}[[model]]\nname = \"a\""), &["seed=1"]), @"--set seed=1: the suite's `seeds` give the seeds; change them there");
        insta::assert_snapshot!(error(&format!("{HEAD}[[model]]\nname = \"a\""), &["model.experts=0"]), @"--set model.experts=0: key `model.experts` is 0; it must be at least 1");
        let many = format!(
            "grid.train.epochs = {:?}\ngrid.train.patience = {:?}",
            (1..60).collect::<Vec<_>>(),
            (1..60).collect::<Vec<_>>()
        );
        insta::assert_snapshot!(model(&many), @"s.toml:5: key `model[0].grid` makes more than 1000 variants; shorten it");
    }
}
