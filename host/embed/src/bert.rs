//! The encoder of BERT (Devlin et al. 2019, section 3) in the size of all-MiniLM-L6-v2, on candle's tensors.
//!
//! Tensor names are those of the published `model.safetensors`. Shapes in comments: `b` texts, `l` tokens each.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, ops::softmax_last_dim};

use crate::DIMENSION;

/// Rows of the word embedding.
pub(crate) const VOCABULARY: usize = 30_522;
/// Rows of the position embedding.
pub(crate) const POSITIONS: usize = 512;
pub(crate) const LAYERS: usize = 6;
pub(crate) const HEADS: usize = 12;
pub(crate) const INTERMEDIATE: usize = 1_536;
pub(crate) const LAYER_NORM_EPS: f64 = 1e-12;
const HEAD: usize = DIMENSION / HEADS;

pub(crate) struct Bert {
    words: Embedding,
    /// Position embedding plus the embedding of token type 0: there is one sentence per text.
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Reads every tensor by name and shape, so a foreign or incomplete file fails here and not in a request.
    pub(crate) fn load(weights: Vec<u8>) -> Result<Self> {
        let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        let embeddings = vb.pp("embeddings");
        let types = embeddings.get((2, DIMENSION), "token_type_embeddings.weight")?;
        Ok(Self {
            words: Embedding::new(embeddings.get((VOCABULARY, DIMENSION), "word_embeddings.weight")?, DIMENSION),
            positions: embeddings
                .get((POSITIONS, DIMENSION), "position_embeddings.weight")?
                .broadcast_add(&types.narrow(0, 0, 1)?)?,
            norm: layer_norm(embeddings.pp("LayerNorm"))?,
            layers: (0..LAYERS).map(|i| Layer::load(vb.pp("encoder.layer").pp(i))).collect::<Result<_>>()?,
        })
    }

    /// Mean over the tokens of each text, before normalisation: `b` rows of [`DIMENSION`].
    ///
    /// `ids` holds `b` rows of `l` token ids, the first `lengths[i] >= 1` of row `i` belong to the text, the rest is
    /// padding.
    pub(crate) fn forward(&self, ids: Vec<u32>, lengths: &[usize]) -> Result<Vec<Vec<f32>>> {
        let b = lengths.len();
        let l = ids.len() / b.max(1);
        let ids = Tensor::from_vec(ids, (b, l), &Device::Cpu)?;
        let mask: Vec<f32> = lengths.iter().flat_map(|&n| (0..l).map(move |i| if i < n { 1.0 } else { 0.0 })).collect();
        let mask = Tensor::from_vec(mask, (b, l), &Device::Cpu)?;
        // 0 for a token, a large negative number for padding, added to the scores before the softmax.
        let bias = lengths.iter().any(|&n| n < l).then(|| mask.affine(1e9, -1e9)?.reshape((b, 1, 1, l))).transpose()?;

        let x = self.words.forward(&ids)?.broadcast_add(&self.positions.narrow(0, 0, l)?)?;
        let mut x = self.norm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x, bias.as_ref())?;
        }
        // (b, 1, l) x (b, l, 384): the sum over the text's tokens.
        let sums = mask.reshape((b, 1, l))?.matmul(&x)?.reshape((b, DIMENSION))?;
        let counts = mask.sum_keepdim(D::Minus1)?;
        sums.broadcast_div(&counts)?.to_vec2()
    }
}

struct Layer {
    /// Query, key and value in one product: 384 to 3 x 384.
    qkv: Linear,
    attention: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn load(vb: VarBuilder) -> Result<Self> {
        let own = vb.pp("attention.self");
        // The scores are divided by the root of the head's width: scaling the query's weights once does it for free.
        let scale = (HEAD as f64).powf(-0.5);
        let part = |name: &str, scale: f64| -> Result<(Tensor, Tensor)> {
            let part = linear(DIMENSION, DIMENSION, own.pp(name))?;
            let bias = part.bias().cloned().map_or_else(|| Tensor::zeros(DIMENSION, DType::F32, &Device::Cpu), Ok)?;
            Ok(((part.weight() * scale)?, (bias * scale)?))
        };
        let (q, k, v) = (part("query", scale)?, part("key", 1.0)?, part("value", 1.0)?);
        Ok(Self {
            qkv: Linear::new(Tensor::cat(&[q.0, k.0, v.0], 0)?, Some(Tensor::cat(&[q.1, k.1, v.1], 0)?)),
            attention: linear(DIMENSION, DIMENSION, vb.pp("attention.output.dense"))?,
            attention_norm: layer_norm(vb.pp("attention.output.LayerNorm"))?,
            intermediate: linear(DIMENSION, INTERMEDIATE, vb.pp("intermediate.dense"))?,
            output: linear(INTERMEDIATE, DIMENSION, vb.pp("output.dense"))?,
            output_norm: layer_norm(vb.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (b, l, _) = x.dims3()?;
        // (3, b, heads, l, head)
        let qkv = self.qkv.forward(x)?.reshape((b, l, 3, HEADS, HEAD))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        let scores = q.matmul(&k.t()?)?;
        let scores = match bias {
            Some(bias) => scores.broadcast_add(bias)?,
            None => scores,
        };
        let context = softmax_last_dim(&scores)?.matmul(&v)?;
        let context = context.transpose(1, 2)?.reshape((b, l, DIMENSION))?;
        let x = self.attention_norm.forward(&(self.attention.forward(&context)? + x)?)?;
        let wide = self.intermediate.forward(&x)?.gelu_erf()?;
        self.output_norm.forward(&(self.output.forward(&wide)? + &x)?)
    }
}

fn layer_norm(vb: VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm::new(vb.get(DIMENSION, "weight")?, vb.get(DIMENSION, "bias")?, LAYER_NORM_EPS))
}

fn linear(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Linear> {
    Ok(Linear::new(vb.get((outputs, inputs), "weight")?, Some(vb.get(outputs, "bias")?)))
}
