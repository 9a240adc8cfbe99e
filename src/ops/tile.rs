//! The tiles of matrix products: which there are, and which one a product gets.
//!
//! A tile is constants of `shaders/tile.wgsl`, and how a chunk is multiplied ([`Multiply`]). No element of a product depends on them but by slices: a weight
//! gradient's rows may be summed in slices side by side, where the result alone is too small to fill a device, and the slices in order
//! after that. So the same choice gives the same bits. Tiles by cooperative matrices are another thing: they round what they multiply, and are taken
//! only where the configuration asks for them.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How a chunk is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Multiply {
    /// Every invocation reads its own numbers: `shaders/multiply.wgsl`.
    #[default]
    Invocations,
    /// Those of a subgroup tell each other what they read, in the same order: `shaders/multiply_subgroup.wgsl`.
    Subgroups,
    /// A subgroup multiplies cooperative matrices of 8 x 8 numbers, of f16 with sums in f32: `shaders/multiply_matrices.wgsl`.
    MatricesOf8,
    /// The same of 16 x 16.
    MatricesOf16,
}

impl Multiply {
    /// The side of its cooperative matrices; none where there are none.
    pub fn side(self) -> Option<u32> {
        match self {
            Multiply::Invocations | Multiply::Subgroups => None,
            Multiply::MatricesOf8 => Some(8),
            Multiply::MatricesOf16 => Some(16),
        }
    }
}

/// How a workgroup makes its part of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Invocations along the result's rows.
    pub height: u32,
    /// Invocations along its columns.
    pub width: u32,
    /// Blocks of 4 x 4 that an invocation makes along rows.
    pub rows: u32,
    /// The same along columns; at most eight blocks in all.
    pub columns: u32,
    /// Summed index that lies in workgroup memory at a time.
    pub depth: u32,
    /// How a chunk is multiplied.
    #[serde(default)]
    pub by: Multiply,
}

impl Tile {
    const fn new([height, width]: [u32; 2], [rows, columns]: [u32; 2]) -> Tile {
        Tile { height, width, rows, columns, depth: 16, by: Multiply::Invocations }
    }

    const fn shallow(self) -> Tile {
        Tile { depth: 8, ..self }
    }

    const fn by_subgroups(self) -> Tile {
        Tile { by: Multiply::Subgroups, ..self }
    }
}

/// Rows of a result for every column of few: of heads.
const NARROW: Tile = Tile::new([32, 4], [1, 1]);
const SMALL: Tile = Tile::new([8, 8], [1, 1]);
const SLIM: Tile = Tile::new([8, 16], [1, 1]);
const MIDDLE: Tile = Tile::new([16, 16], [1, 1]);
/// As large as [`MIDDLE`] by half of the invocations, each of which reads less for an operation: eight rows each, or eight columns.
const HALF: Tile = Tile::new([8, 16], [2, 1]);
const CROSS: Tile = Tile::new([16, 8], [1, 2]);
/// For long sums of few results: less workgroup memory, so more of them at a time.
const SHALLOW: Tile = HALF.shallow();
const LARGE: Tile = Tile::new([8, 16], [2, 2]).shallow();
/// By subgroups of up to 32 invocations.
const WIDE: Tile = Tile::new([4, 32], [2, 1]).by_subgroups();

/// For processors, to which reading workgroup memory costs more than the operations: an invocation makes 16 x 8 numbers.
const BROAD: Tile = Tile::new([4, 8], [4, 2]).shallow();
const BROAD_BY_SUBGROUPS: Tile = BROAD.by_subgroups();

/// All tiles: each within WebGPU's 256 invocations and 16 KiB of workgroup memory.
pub const TILES: [Tile; 11] = [NARROW, SMALL, SLIM, MIDDLE, HALF, CROSS, SHALLOW, LARGE, WIDE, BROAD, BROAD_BY_SUBGROUPS];

/// A tile by cooperative matrices: four subgroups, each of which makes eight matrices of the result.
const fn matrices(side: u32, by: Multiply) -> Tile {
    Tile { height: side / 4, width: 2 * side, rows: 4, columns: 1, depth: side, by }
}

/// The tiles by cooperative matrices.
pub const MATRICES: [Tile; 2] = [matrices(8, Multiply::MatricesOf8), matrices(16, Multiply::MatricesOf16)];

/// Those that the contrast is made by: to it a block is two, of S and of dz, and its kernels take the longest to compile.
pub const CONTRAST_TILES: [Tile; 6] = [SMALL, HALF, CROSS, WIDE, BROAD, BROAD_BY_SUBGROUPS];

/// Operations from which a product is worth a kernel that takes software adapters seconds to compile.
const WORTH: usize = 100_000_000;

/// Numbers of slices that are tried.
pub const SLICES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Fewest rows of a slice.
const SLICE_ROWS: usize = 128;
/// Most rows of a slice on software adapters, and most tiles of S, of representations up to [`SOFTWARE_WIDTH`] wide, that a workgroup goes over there: lavapipe
/// (Mesa 22.3 at the least) ends every loop of an invocation without a word once all its loops together have gone around 65,535 times. (Of the contrast of
/// width 64 576 tiles come out right, 1024 do not.)
const SOFTWARE_ROWS: usize = 8192;
const SOFTWARE_TILES: usize = 256;
const SOFTWARE_WIDTH: usize = 64;

impl Tile {
    /// Rows and columns of the result that a workgroup makes.
    pub fn size(self) -> [usize; 2] {
        [4 * self.height * self.rows, 4 * self.width * self.columns].map(|n| n as usize)
    }

    /// Workgroups for a result of these rows and columns.
    pub fn workgroups(self, rows: usize, columns: usize) -> [usize; 2] {
        [rows.div_ceil(self.size()[0]), columns.div_ceil(self.size()[1])]
    }

    /// Values of the shader's constants.
    pub fn overrides(self) -> Vec<(&'static str, f64)> {
        let all = [
            ("HEIGHT", self.height),
            ("WIDTH", self.width),
            ("ROWS", self.rows),
            ("COLUMNS", self.columns),
            ("DEPTH", self.depth),
        ];
        all.map(|(name, value)| (name, value.into())).to_vec()
    }

    /// Invocations of the subgroups that a tile by cooperative matrices is made of: on an adapter that has no others.
    pub fn matrices_subgroup(self) -> u32 {
        self.height * self.width / 4
    }

    /// `64x64x16/8x4`: what a workgroup makes and the depth of a chunk, and what an invocation makes; an s behind it: by subgroups; an m: by
    /// cooperative matrices.
    pub fn describe(self) -> String {
        let [rows, columns] = self.size();
        let by = match self.by {
            Multiply::Invocations => "",
            Multiply::Subgroups => "s",
            Multiply::MatricesOf8 | Multiply::MatricesOf16 => "m",
        };
        format!("{rows}x{columns}x{}/{}x{}{by}", self.depth, 4 * self.rows, 4 * self.columns)
    }
}

/// A product of a linear layer, or the products of the contrast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// y = x W.
    Forward,
    /// dx = d W'.
    InputGradient,
    /// dW = x' d.
    WeightGradient,
    /// S of both sides and from it dz; rows are those of the minibatch, inputs as well, and outputs the width of a side.
    Contrast,
}

/// A product with its sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Which one it is.
    pub product: Product,
    /// Rows of the minibatch.
    pub rows: usize,
    /// Groups.
    pub groups: usize,
    /// Inputs of a group.
    pub inputs: usize,
    /// Outputs of a group.
    pub outputs: usize,
}

impl Shape {
    /// The contrast of `rows` rows, whose representations have `width` numbers each.
    pub fn contrast(rows: usize, width: usize) -> Shape {
        Shape { product: Product::Contrast, rows, groups: 2, inputs: rows, outputs: width }
    }

    /// The three products of a linear layer.
    pub fn layer([rows, groups, inputs, outputs]: [usize; 4]) -> [Shape; 3] {
        let of = |product| Shape { product, rows, groups, inputs, outputs };
        [Product::Forward, Product::InputGradient, Product::WeightGradient].map(of)
    }

    /// The tiles that it can be made by.
    pub fn tiles(&self) -> &'static [Tile] {
        if self.product == Product::Contrast { &CONTRAST_TILES } else { &TILES }
    }

    /// Multiplications and additions.
    fn operations(&self) -> usize {
        2 * self.rows * self.groups * self.inputs * self.outputs
    }

    /// Whether what it sums over can be cut into slices.
    pub fn has_slices(&self) -> bool {
        matches!(self.product, Product::WeightGradient | Product::Contrast)
    }

    /// Rows and columns of its result.
    pub fn result(&self) -> [usize; 2] {
        match self.product {
            Product::Forward | Product::Contrast => [self.rows, self.outputs],
            Product::InputGradient => [self.rows, self.inputs],
            Product::WeightGradient => [self.inputs, self.outputs],
        }
    }

    /// Whether it is large enough for a tile by cooperative matrices: a layer with as many inputs and outputs as a matrix has.
    fn suits(&self, tile: Tile) -> bool {
        let side = tile.depth as usize;
        self.product != Product::Contrast && self.inputs >= side && self.outputs >= side
    }

    /// How far two shapes are apart: the sum over sizes of the ratio's logarithm.
    fn distance(&self, other: &Shape) -> f64 {
        let sizes = |s: &Shape| [s.rows, s.groups, s.inputs, s.outputs].map(|n| (n as f64).ln());
        sizes(self).iter().zip(sizes(other)).map(|(a, b)| (a - b).abs()).sum()
    }
}

/// What a product gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// The tile.
    pub tile: Tile,
    /// Slices of the rows that a weight gradient is summed in, or of the contrast's candidates; 1 for the others.
    pub slices: usize,
}

impl Chosen {
    /// Whether it is one of those that there are for `shape`.
    pub fn is_possible(&self, shape: Shape) -> bool {
        shape.tiles().contains(&self.tile) && SLICES.contains(&self.slices)
    }

    /// Rows of a slice of `rows`, and how many slices there are. (Those of the contrast's gradient; of its sums, [`Tiles::bands_and_slices`].)
    pub fn slices(&self, rows: usize) -> (usize, usize) {
        let slice = rows.div_ceil(self.slices).next_multiple_of(self.tile.depth as usize).min(rows.max(1));
        (slice, rows.div_ceil(slice).max(1))
    }
}

/// Kinds of adapters that the fixed table tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The CPU twins, which have no tiles, and software adapters: as many workgroups as there are cores are enough.
    Software,
    /// Few compute units.
    Integrated,
    /// Many.
    Discrete,
}

/// A choice that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The product.
    pub shape: Shape,
    /// What was fastest.
    pub chosen: Chosen,
}

/// Chooses tiles for one adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// The adapter's kind.
    pub kind: Kind,
    /// Invocations of its largest subgroup; 0 where it has no subgroup operations, or subgroups of less than four invocations.
    pub subgroup: u32,
    /// The tile by cooperative matrices that it can run, if it can run one.
    pub matrices: Option<Tile>,
    /// Whether linear layers are multiplied by cooperative matrices, where they are large enough.
    pub by_matrices: bool,
    /// What was measured on it, if it was.
    pub tuned: Option<Arc<[Tuned]>>,
}

impl Tiles {
    /// The fixed table for twins and software adapters.
    pub const SOFTWARE: Tiles = Tiles { kind: Kind::Software, subgroup: 0, matrices: None, by_matrices: false, tuned: None };

    /// The same choice for every product.
    pub fn always(chosen: Chosen) -> Tiles {
        let of = |product| Tuned { shape: Shape { product, rows: 1, groups: 1, inputs: 1, outputs: 1 }, chosen };
        let tuned = [Product::Forward, Product::InputGradient, Product::WeightGradient, Product::Contrast].map(of);
        // Large enough for every tile by subgroups.
        Tiles {
            subgroup: 4,
            matrices: Some(chosen.tile).filter(|tile| tile.by.side().is_some()),
            tuned: Some(Arc::new(tuned)),
            ..Tiles::SOFTWARE
        }
    }

    /// Whether the adapter can run this tile.
    pub fn runs(&self, tile: Tile) -> bool {
        match tile.by {
            Multiply::Invocations => true,
            Multiply::Subgroups => tile.width.is_multiple_of(self.subgroup),
            Multiply::MatricesOf8 | Multiply::MatricesOf16 => self.matrices == Some(tile),
        }
    }

    /// What a product gets: the nearest of those that were measured, else what the table says.
    pub fn choose(&self, shape: Shape) -> Chosen {
        if let Some(tile) = self.matrices.filter(|&tile| self.by_matrices && shape.suits(tile)) {
            return Chosen { tile, slices: self.slices_of(tile, shape) };
        }
        let all = self.tuned.iter().flat_map(|t| t.iter());
        let measured = all.filter(|t| t.shape.product == shape.product && self.runs(t.chosen.tile));
        match measured.min_by(|a, b| shape.distance(&a.shape).total_cmp(&shape.distance(&b.shape))) {
            Some(nearest) => Chosen { slices: nearest.chosen.slices.max(self.fewest(shape)), ..nearest.chosen },
            None => self.fixed(shape),
        }
    }

    /// Workgroups that fill the device.
    fn enough(&self) -> usize {
        match self.kind {
            Kind::Software => 1,
            Kind::Integrated => 64,
            Kind::Discrete => 256,
        }
    }

    /// The fewest slices that this adapter sums rightly.
    fn fewest(&self, shape: Shape) -> usize {
        if self.kind != Kind::Software || !shape.has_slices() {
            return 1;
        }
        let wanted = shape.rows.div_ceil(SOFTWARE_ROWS);
        SLICES.into_iter().find(|&slices| slices >= wanted).unwrap_or(SLICES[SLICES.len() - 1])
    }

    /// How often the rows of a sum are cut where `count` workgroups make the whole result: until there are twice enough.
    fn slices(&self, count: usize, rows: usize) -> usize {
        let wanted = (2 * self.enough()).div_ceil(count);
        let most = (rows / SLICE_ROWS).max(1);
        let fewest = SLICES.into_iter().find(|&slices| slices >= wanted).unwrap_or(most);
        SLICES.into_iter().rfind(|&slices| slices <= fewest.min(most)).unwrap_or(1)
    }

    /// The fixed table. That of GPUs was measured on a large discrete one (docs/performance.md).
    fn fixed(&self, shape: Shape) -> Chosen {
        let [rows, columns] = shape.result();
        let count = |tile: Tile| tile.workgroups(rows, columns).iter().product::<usize>() * shape.groups;
        let tile = match (self.kind, shape.product) {
            (Kind::Software, Product::Contrast) if shape.operations() < WORTH => SMALL,
            (Kind::Software, Product::Forward | Product::InputGradient | Product::WeightGradient) if columns <= 16 => NARROW,
            (Kind::Software, _) if self.runs(BROAD_BY_SUBGROUPS) && shape.operations() >= WORTH => BROAD_BY_SUBGROUPS,
            (Kind::Software, _) => BROAD,
            (_, Product::Contrast) => CROSS,
            // Slices make up for the number.
            (_, Product::WeightGradient) if count(SHALLOW) >= self.enough() / 16 => SHALLOW,
            (_, Product::WeightGradient) => MIDDLE,
            (_, Product::Forward) if columns >= LARGE.size()[1] && count(LARGE) >= 2 * self.enough() => LARGE,
            _ if count(HALF) >= 2 * self.enough() => HALF,
            _ if count(SLIM) >= self.enough() => SLIM,
            _ => SMALL,
        };
        Chosen { tile, slices: self.slices_of(tile, shape) }
    }

    /// How the contrast's S is cut where its rows are summed and, with `both`, its columns in the same pass: how many tiles of its rows make a band, and how many
    /// slices its columns are cut in. Rows have sums of every slice and columns of every band: so both are few, and all sums within WebGPU's 128 MiB of a binding. On
    /// GPUs up to 512 workgroups come of it, or as many as two passes of `chosen.slices` over all tiles would have.
    pub fn bands_and_slices(&self, chosen: Chosen, shape: Shape, both: bool) -> [usize; 2] {
        let [rows, columns] = shape.result();
        let few = |n: usize| n.min((1 << 22) / rows).max(1);
        let [height, width] = chosen.tile.size();
        let [down, across] = [rows.div_ceil(height), rows.div_ceil(width)];
        let software = self.kind == Kind::Software;
        let most = (SOFTWARE_TILES * SOFTWARE_WIDTH / columns.max(SOFTWARE_WIDTH)).max(1);
        // More bands where slices would be too many.
        let bands = if software { (down * across).div_ceil(most * few(64)).max(16) } else { 32 };
        let band = if both { down.div_ceil(few(bands)) } else { 1 };
        let slices = match (software, both) {
            (true, _) => chosen.slices.max((band * across).div_ceil(most)),
            (false, true) => (2 * band * chosen.slices).min(16),
            (false, false) => chosen.slices,
        };
        [band, few(slices).min(across)]
    }

    fn slices_of(&self, tile: Tile, shape: Shape) -> usize {
        let [rows, columns] = shape.result();
        let count = tile.workgroups(rows, columns).iter().product::<usize>() * shape.groups;
        match self.kind {
            Kind::Software => self.fewest(shape),
            _ if shape.has_slices() => self.slices(count, shape.rows),
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(product: Product, rows: usize, groups: usize, inputs: usize, outputs: usize) -> Shape {
        Shape { product, rows, groups, inputs, outputs }
    }

    #[test]
    fn every_tile_is_within_the_limits_of_webgpu() {
        for tile in TILES.into_iter().chain(MATRICES) {
            assert!(tile.height * tile.width <= 256, "{tile:?}");
            let vectors = tile.depth * (tile.height * tile.rows + tile.width * tile.columns + 2);
            // By matrices one more of each part, of 16-bit numbers, and a stripe of the result beside them.
            let bytes = tile.by.side().map_or(16 * vectors, |side| 8 * (vectors + 2 * tile.depth) + 4 * side * 8 * side);
            assert!(bytes <= 16 << 10, "{tile:?} takes {bytes} bytes");
            assert!([1, 2, 4].contains(&tile.rows) && [1, 2].contains(&tile.columns), "{tile:?}");
            assert!(tile.depth.is_multiple_of(4), "{tile:?}");
            // An invocation for every vector of a row of the right part, whose biases it sums.
            assert!(tile.columns <= tile.height, "{tile:?}");
            // What an invocation reads of a chunk; of the right part it may be less than a vector.
            assert!([1, 2, 4].contains(&(tile.depth * tile.rows / tile.width)), "{tile:?}");
            assert!([0, 1, 2, 4].contains(&(tile.depth * tile.columns / tile.height)), "{tile:?}");
            assert!((tile.depth * tile.rows).is_multiple_of(tile.width), "{tile:?}");
            let right = tile.depth * tile.columns;
            assert!(right < tile.height || right.is_multiple_of(tile.height), "{tile:?}");
        }
    }

    /// Invocations of the contrast hand over sums of as many of their rows as the left part holds, and of these others in the right one.
    #[test]
    fn the_contrast_has_room_for_what_is_handed_over() {
        for tile in CONTRAST_TILES {
            let handed = tile.depth * tile.rows / tile.width;
            assert!((1..=tile.width).contains(&handed) && (4 * tile.rows).is_multiple_of(handed), "{tile:?}");
            assert!(tile.height * handed <= tile.depth * tile.columns, "{tile:?}");
            // Columns of S are the depth of dz, so many at a time; what all need of own rows and others lies beside the parts.
            assert!(tile.size()[1].is_multiple_of(tile.depth as usize), "{tile:?}");
            let (left, right) = (tile.height * tile.rows, tile.width * tile.columns);
            let vectors = tile.depth * (left + right + 2) + 4 * (left + right);
            assert!(16 * vectors <= 16 << 10, "{tile:?} takes {} bytes", 16 * vectors);
            // Invocations hand over a vector of each of their blocks of columns.
            let parts = tile.height * tile.width * tile.columns;
            assert!(parts <= tile.depth * (left + 1) && parts <= tile.depth * (right + 1), "{tile:?}");
        }
    }

    #[test]
    fn cooperative_matrices_are_taken_where_they_are_asked_for_and_layers_are_large_enough() {
        let tile = MATRICES[1];
        let experts = shape(Product::WeightGradient, 8192, 1, 320, 512);
        let tuned = [Tuned { shape: experts, chosen: Chosen { tile: SHALLOW, slices: 4 } }];
        let unasked = Tiles { kind: Kind::Discrete, matrices: Some(tile), tuned: Some(Arc::new(tuned)), ..Tiles::SOFTWARE };
        assert_eq!(unasked.choose(experts).tile, SHALLOW);
        let asked = Tiles { by_matrices: true, ..unasked };
        let chosen = asked.choose(experts);
        assert_eq!(chosen.tile, tile);
        assert!(chosen.slices > 1);
        assert_eq!(asked.choose(shape(Product::Forward, 8192, 1, 320, 512)), Chosen { tile, slices: 1 });
        assert_eq!(asked.choose(shape(Product::Forward, 8192, 2, 64, 1)).tile.by, Multiply::Invocations);
        assert_eq!(asked.choose(Shape::contrast(8192, 64)).tile.by, Multiply::Invocations);
        let without = Tiles { matrices: None, ..asked };
        assert_eq!(without.choose(experts).tile, SHALLOW);
    }

    #[test]
    fn slices_cover_the_rows() {
        for slices in SLICES {
            for rows in [1, 15, 16, 100, 128, 1000, 8192] {
                let (slice, count) = Chosen { tile: MIDDLE, slices }.slices(rows);
                assert!(count <= slices && slice * count >= rows && slice * (count - 1) < rows, "{slices} of {rows}");
            }
        }
    }

    #[test]
    fn small_results_are_cut_finer_where_the_device_is_larger() {
        let of = |kind, shape| Tiles { kind, ..Tiles::SOFTWARE }.choose(shape);
        let experts = shape(Product::WeightGradient, 8192, 1, 320, 512);
        assert_eq!(of(Kind::Software, experts), Chosen { tile: BROAD, slices: 1 });
        assert_eq!(of(Kind::Discrete, experts), Chosen { tile: SHALLOW, slices: 16 });
        assert_eq!(of(Kind::Integrated, experts), Chosen { tile: SHALLOW, slices: 4 });
        assert_eq!(of(Kind::Discrete, shape(Product::WeightGradient, 8192, 1, 320, 8)), Chosen { tile: MIDDLE, slices: 64 });
        assert_eq!(of(Kind::Discrete, shape(Product::Forward, 8192, 1, 320, 512)).tile, LARGE);
        assert_eq!(of(Kind::Discrete, shape(Product::InputGradient, 8192, 1, 320, 512)).tile, HALF);
        assert_eq!(of(Kind::Discrete, shape(Product::Forward, 8192, 4, 128, 64)).tile, HALF);
        assert_eq!(of(Kind::Discrete, shape(Product::Forward, 2048, 1, 320, 512)).tile, SLIM);
        assert_eq!(of(Kind::Discrete, shape(Product::Forward, 8192, 1, 320, 8)).tile, SLIM);
        assert_eq!(of(Kind::Discrete, shape(Product::Forward, 2048, 2, 64, 1)).tile, SMALL);
        // Too few rows for slices.
        assert_eq!(of(Kind::Discrete, shape(Product::WeightGradient, 100, 1, 64, 64)).slices, 1);
    }

    #[test]
    fn the_contrast_fills_the_device_by_slices_of_its_candidates() {
        let of = |kind, rows| Tiles { kind, ..Tiles::SOFTWARE }.choose(Shape::contrast(rows, 64));
        assert_eq!(of(Kind::Software, 256), Chosen { tile: SMALL, slices: 1 });
        assert_eq!(of(Kind::Software, 8192), Chosen { tile: BROAD, slices: 1 });
        for (kind, rows, cut) in [
            (Kind::Software, 300, [1, 1]),
            (Kind::Software, 4096, [4, 1]),
            (Kind::Software, 8192, [8, 4]),
            (Kind::Integrated, 8192, [4, 8]),
            (Kind::Discrete, 1024, [1, 16]),
            (Kind::Discrete, 2048, [1, 16]),
            (Kind::Discrete, 8192, [4, 16]),
            (Kind::Discrete, 65536, [32, 16]),
        ] {
            let tiles = Tiles { kind, ..Tiles::SOFTWARE };
            let chosen = tiles.choose(Shape::contrast(rows, 64));
            assert_eq!(tiles.bands_and_slices(chosen, Shape::contrast(rows, 64), true), cut, "{kind:?}, {rows} rows");
        }
        // Where loops end early nothing tells.
        for rows in [300, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
            let shape = Shape::contrast(rows, 64);
            let chosen = Tiles::SOFTWARE.choose(shape);
            assert!(chosen.slices(rows).0 <= SOFTWARE_ROWS && chosen.is_possible(shape), "{chosen:?}");
            for both in [false, true] {
                let [band, slices] = Tiles::SOFTWARE.bands_and_slices(chosen, shape, both);
                let tiles = band * rows.div_ceil(slices).div_ceil(chosen.tile.size()[1]);
                assert!(tiles <= SOFTWARE_TILES, "{rows} rows: a workgroup goes over {tiles} tiles");
            }
        }
        let [band, slices] = Tiles::SOFTWARE.bands_and_slices(of(Kind::Software, 8192), Shape::contrast(8192, 512), true);
        assert_eq!([band, slices], [8, 32]);
        // Nor by what was tuned for fewer rows.
        let tuned = Tiles::always(Chosen { tile: BROAD, slices: 1 });
        assert_eq!(tuned.choose(shape(Product::WeightGradient, 40_000, 1, 8, 8)).slices, 8);
        assert_eq!(of(Kind::Integrated, 2048), Chosen { tile: CROSS, slices: 2 });
        assert_eq!(of(Kind::Discrete, 2048), Chosen { tile: CROSS, slices: 8 });
        assert_eq!(of(Kind::Discrete, 8192), Chosen { tile: CROSS, slices: 2 });
    }

    #[test]
    fn tiles_by_subgroups_are_for_adapters_whose_subgroups_fit() {
        let experts = shape(Product::Forward, 8192, 1, 320, 512);
        for (subgroup, tile) in [(0, BROAD), (4, BROAD_BY_SUBGROUPS), (8, BROAD_BY_SUBGROUPS), (16, BROAD)] {
            assert_eq!(Tiles { subgroup, ..Tiles::SOFTWARE }.choose(experts).tile, tile, "{subgroup}");
        }
        let small = shape(Product::Forward, 128, 1, 320, 512);
        assert_eq!(Tiles { subgroup: 8, ..Tiles::SOFTWARE }.choose(small).tile, BROAD);
        // Tuned where there were other subgroups.
        let chosen = Chosen { tile: WIDE, slices: 1 };
        let tuned: Option<Arc<[Tuned]>> = Some(Arc::new([Tuned { shape: experts, chosen }]));
        let of =
            |subgroup| Tiles { kind: Kind::Discrete, subgroup, tuned: tuned.clone(), ..Tiles::SOFTWARE }.choose(experts).tile;
        assert_eq!([of(32), of(64)], [WIDE, LARGE]);
    }

    #[test]
    fn the_nearest_that_was_measured_is_taken() {
        let tuned = |rows, tile, slices| Tuned {
            shape: shape(Product::WeightGradient, rows, 1, 64, 64),
            chosen: Chosen { tile, slices },
        };
        let tiles = Tiles {
            kind: Kind::Discrete,
            tuned: Some(Arc::new([tuned(100, SMALL, 1), tuned(10_000, LARGE, 8)])),
            ..Tiles::SOFTWARE
        };
        assert_eq!(tiles.choose(shape(Product::WeightGradient, 200, 1, 64, 64)), tuned(100, SMALL, 1).chosen);
        assert_eq!(tiles.choose(shape(Product::WeightGradient, 5000, 2, 64, 64)), tuned(10_000, LARGE, 8).chosen);
        // Nothing was measured of the others.
        assert_eq!(tiles.choose(shape(Product::Forward, 8192, 1, 320, 512)).tile, LARGE);
    }
}
