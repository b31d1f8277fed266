// The network of tinydiff/transformer.py once more, forward only, for a browser: the same equations in plain loops.
//
//     x += attention(norm(x));  x += mlp(norm(x))       for every block, then head(norm(x))
//
// A matrix is a Float32Array, row after row. L positions, d numbers at each, H heads of D = d / H, V tokens.

const ROTARY_BASE = 10000, EPSILON = 1e-5;

// x (rows, I) times weight (I, O) plus bias (O): (rows, O). Each row of the result is a sum of rows of `weight`; eight
// of them are added at a time, so that the result is read and written only every eighth time.
function linear(x, rows, {weight: w, bias}) {
  const O = bias.length, I = w.length / O, out = new Float32Array(rows * O);
  for (let r = 0; r < rows; r++) {
    const from = r * I, to = r * O;
    let i = 0;
    for (; i + 8 <= I; i += 8) {
      const a = x[from + i], b = x[from + i + 1], c = x[from + i + 2], d = x[from + i + 3];
      const e = x[from + i + 4], f = x[from + i + 5], g = x[from + i + 6], h = x[from + i + 7];
      for (let o = 0, at = i * O; o < O; o++, at++)
        out[to + o] += a * w[at] + b * w[at + O] + c * w[at + 2 * O] + d * w[at + 3 * O] +
          e * w[at + 4 * O] + f * w[at + 5 * O] + g * w[at + 6 * O] + h * w[at + 7 * O];
    }
    for (; i < I; i++) for (let o = 0; o < O; o++) out[to + o] += x[from + i] * w[i * O + o];
    for (let o = 0; o < O; o++) out[to + o] += bias[o];
  }
  return out;
}

// Every row to mean 0 and variance 1, then scaled and shifted.
function layerNorm(x, {weight, bias}) {
  const d = weight.length, out = new Float32Array(x.length);
  for (let r = 0; r < x.length; r += d) {
    let mean = 0, variance = 0;
    for (let i = 0; i < d; i++) mean += x[r + i] / d;
    for (let i = 0; i < d; i++) variance += (x[r + i] - mean) ** 2 / d;
    const scale = 1 / Math.sqrt(variance + EPSILON);
    for (let i = 0; i < d; i++) out[r + i] = (x[r + i] - mean) * scale * weight[i] + bias[i];
  }
  return out;
}

// x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3), which is x sigmoid(2 u).
function gelu(x) {
  const c = Math.sqrt(8 / Math.PI);
  return x.map(v => v / (1 + Math.exp(-c * (v + 0.044715 * v * v * v))));
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

// Turn queries and keys, the first two of the three parts of qkv (L, 3, H, D), by the angles of their positions:
// coordinate j < D/2 together with j + D/2.
function rotary(qkv, first, heads, depth) {
  const half = depth / 2, d = heads * depth;
  for (let row = 0; row < qkv.length / (3 * d); row++)
    for (let j = 0; j < half; j++) {
      const angle = (first + row) * ROTARY_BASE ** (-2 * j / depth), c = Math.cos(angle), s = Math.sin(angle);
      for (let head = 0; head < 2 * heads; head++) {
        const at = row * 3 * d + head * depth + j, a = qkv[at], b = qkv[at + half];
        qkv[at] = a * c - b * s; qkv[at + half] = a * s + b * c;
      }
    }
}

// softmax(q k^T / sqrt(D)) v for every head. The keys and values of `past` rows come before those of these rows; a
// causal row sees the rows up to its own. What each row attends to is written to `watch` (H, rows, rows), if given.
function attention(qkv, rows, past, kept, {heads, depth, causal, watch}) {
  const d = heads * depth, out = new Float32Array(rows * d), p = new Float32Array(past + rows);
  for (let row = 0; row < rows; row++) kept.set(qkv.subarray(row * 3 * d + d, (row + 1) * 3 * d), (past + row) * 2 * d);
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < rows; row++) {
      const q = row * 3 * d + head * depth, to = row * d + head * depth, seen = causal ? past + row + 1 : past + rows;
      let most = -Infinity, total = 0;
      for (let j = 0, k = head * depth; j < seen; j++, k += 2 * d) {
        let dot = 0;
        for (let i = 0; i < depth; i++) dot += qkv[q + i] * kept[k + i];
        p[j] = dot / Math.sqrt(depth);
        if (p[j] > most) most = p[j];
      }
      for (let j = 0; j < seen; j++) total += p[j] = Math.exp(p[j] - most);
      for (let j = 0, v = d + head * depth; j < seen; j++, v += 2 * d) {
        const share = p[j] / total;
        for (let i = 0; i < depth; i++) out[to + i] += share * kept[v + i];
      }
      if (watch) for (let j = 0; j < seen; j++) watch[(head * rows + row) * rows + j] = p[j] / total;
    }
  return out;
}

// A trained network. `config` is that of the Transformer, `weights` has its arrays by name.
class Network {
  constructor(config, weights) {
    Object.assign(this, {vocabSize: config.vocab_size, length: config.length, layers: config.layers,
      heads: config.heads, depth: config.d_model / config.heads, d: config.d_model, positions: config.positions});
    this.weights = weights;
  }

  // A matrix with its bias, or a norm: both have the two arrays.
  part(name) { return {weight: this.weights[name + ".weight"], bias: this.weights[name + ".bias"]}; }

  // Keys and values of positions already seen, to go on from, one position at a time, left to right.
  newCache() {
    return {length: 0, layers: Array.from({length: this.layers}, () => new Float32Array(this.length * 2 * this.d))};
  }

  // Logits (n, V) of the n positions in `select`, all if it is left out, for token ids `ids`; MASK has id V.
  //   causal: a position sees those before it and itself only; cache: `ids` go on from what it holds;
  //   watch: a list that is filled with what attends to what, an array (H, L, L) per layer
  logits(ids, {causal = false, select = null, cache = null, watch = null} = {}) {
    const {d, heads, depth, weights} = this, rows = ids.length, past = cache ? cache.length : 0;
    let h = new Float32Array(rows * d);
    ids.forEach((id, row) => h.set(weights.embed.subarray(id * d, (id + 1) * d), row * d));
    if (weights.position) add(h, weights.position.subarray(past * d, (past + rows) * d));
    for (let layer = 0; layer < this.layers; layer++) {
      const part = name => this.part(`block${layer}.${name}`);
      const qkv = linear(layerNorm(h, part("norm1")), rows, part("qkv"));  // (L, 3, H, D)
      if (this.positions !== "learned") rotary(qkv, past, heads, depth);
      const kept = cache ? cache.layers[layer] : new Float32Array(rows * 2 * d);
      const seen = watch ? new Float32Array(heads * rows * rows) : null;
      add(h, linear(attention(qkv, rows, past, kept, {heads, depth, causal, watch: seen}), rows, part("out")));
      add(h, linear(gelu(linear(layerNorm(h, part("norm2")), rows, part("up"))), rows, part("down")));
      if (watch) watch.push(seen);
    }
    if (cache) cache.length += rows;
    if (select) {
      const chosen = new Float32Array(select.length * d);
      select.forEach((row, n) => chosen.set(h.subarray(row * d, (row + 1) * d), n * d));
      h = chosen;
    }
    return linear(layerNorm(h, this.part("norm")), h.length / d, this.part("head"));
  }
}

// --- weights ---------------------------------------------------------------------------------------------------------

// A half-precision number from its 16 bits: sign, 5 of the exponent, 10 of the fraction.
function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The arrays of a model by name, from base64; `shapes` lists [name, shape] in the order of the bytes, little-endian.
function unpack(base64, shapes, precision) {
  const binary = atob(base64), bytes = Uint8Array.from(binary, c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  const sizes = shapes.map(([, shape]) => shape.reduce((a, b) => a * b, 1)), each = precision === "half" ? 2 : 4;
  const expected = each * sizes.reduce((a, b) => a + b, 0), weights = {};
  if (bytes.length !== expected)
    throw new Error(`the weights are ${bytes.length} bytes of ${expected}: this file is damaged`);
  let at = 0;
  shapes.forEach(([name], k) => {
    const array = weights[name] = new Float32Array(sizes[k]);
    for (let i = 0; i < array.length; i++, at += each)
      array[i] = precision === "half" ? half(view.getUint16(at, true)) : view.getFloat32(at, true);
    if (!array.every(Number.isFinite)) throw new Error(`${name} has weights that are no numbers: this file is damaged`);
  });
  return weights;
}
