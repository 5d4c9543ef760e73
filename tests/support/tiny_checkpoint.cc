// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_checkpoint.h"

#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "tests/support/gguf_writer.h"

namespace farspan {
namespace {

constexpr std::string_view kChatTemplate =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

constexpr std::array<const char*, 46> kMerges = {
    "Ġ t",  "Ġ a",   "i n", "h e", "Ġ Ġ", "r e",  "o n",  "e r",  "Ġt he", "a t",  "Ġ s",  "Ġ o",
    "e n",  "Ġ c",   "e s", "Ġ w", "n d", "i t",  "o r",  "i s",  "a l",   "Ġ p",  "in g", "Ġ f",
    "a n",  "e d",   "Ġ b", "o u", "a r", "Ġ in", "Ġo f", "Ġ m",  "Ġa nd", "i on", "i c",  "Ġ d",
    "Ġt o", "ĠĠ ĠĠ", "l e", "r o", "a s", "Ċ Ċ",  "l l",  "Ġ is", "v e",   "Ġ he"};

// Uniform, mean 0, standard deviation 1; equal on every platform.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed) {}

  float Next() {
    state_ += 0x9e3779b97f4a7c15;  // splitmix64
    uint64_t bits = state_;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    bits ^= bits >> 31;
    const double unit = static_cast<double>(bits >> 11) * 0x1p-53;
    return static_cast<float>((2.0 * unit - 1.0) * std::sqrt(3.0));
  }

  std::vector<float> Fill(int64_t count, double mean, double deviation) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = static_cast<float>(mean + deviation * Next());
    return values;
  }

 private:
  uint64_t state_;
};

std::string Utf8(uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3f))};
}

bool StandsForItself(uint32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// The visible character of each byte in byte-level BPE, printable bytes first.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    if (StandsForItself(byte)) tokens.push_back(Utf8(byte));
  }
  const auto num_printable = static_cast<uint32_t>(tokens.size());
  for (uint32_t i = 0; num_printable + i < 256; ++i) tokens.push_back(Utf8(256 + i));
  return tokens;
}

void AddVocabulary(GgufWriter& writer) {
  const std::vector<std::string> tokens = TinyVocabulary();
  std::vector<int32_t> types(tokens.size(), 1);
  for (const int32_t control : {kTinyEndOfTextId, kTinyImStartId, kTinyImEndId}) types[control] = 3;
  writer.AddString("tokenizer.ggml.model", "gpt2");
  writer.AddString("tokenizer.ggml.pre", "smollm");
  writer.AddStrings("tokenizer.ggml.tokens", tokens);
  writer.AddInt32s("tokenizer.ggml.token_type", types);
  writer.AddStrings("tokenizer.ggml.merges", std::vector<std::string>(kMerges.begin(), kMerges.end()));
  writer.AddUint32("tokenizer.ggml.bos_token_id", kTinyImStartId);
  writer.AddUint32("tokenizer.ggml.eos_token_id", kTinyImEndId);
  writer.AddUint32("tokenizer.ggml.unknown_token_id", kTinyEndOfTextId);
  writer.AddUint32("tokenizer.ggml.padding_token_id", kTinyImEndId);
  writer.AddBool("tokenizer.ggml.add_bos_token", false);
  writer.AddBool("tokenizer.ggml.add_space_prefix", false);
  writer.AddString("tokenizer.chat_template", kChatTemplate);
}

void AddConfig(const TinyCheckpointOptions& options, GgufWriter& writer) {
  const auto number = [&](std::string_view key, int64_t value) { writer.AddUint32(key, static_cast<uint32_t>(value)); };
  writer.AddString("general.architecture", "llama");
  writer.AddString("general.name", "tiny");
  number("llama.block_count", options.num_layers);
  number("llama.context_length", options.context_tokens);
  number("llama.embedding_length", options.width);
  number("llama.feed_forward_length", options.feed_forward_width);
  number("llama.attention.head_count", options.num_heads);
  number("llama.attention.head_count_kv", options.num_kv_heads);
  number("llama.attention.key_length", options.head_dim);
  number("llama.attention.value_length", options.head_dim);
  number("llama.rope.dimension_count", options.rope_dim > 0 ? options.rope_dim : options.head_dim);
  number("llama.vocab_size", static_cast<int64_t>(TinyVocabulary().size()));
  writer.AddFloat32("llama.rope.freq_base", options.rope_freq_base);
  writer.AddFloat32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  if (options.rope_linear_factor > 0) {
    writer.AddString("llama.rope.scaling.type", "linear");
    writer.AddFloat32("llama.rope.scaling.factor", options.rope_linear_factor);
  }
}

class TensorWriter {
 public:
  TensorWriter(const TinyCheckpointOptions& options, GgufWriter& writer)
      : options_(options), noise_(options.seed), writer_(writer) {}

  void Norm(const std::string& name) {
    const std::vector<float> values = noise_.Fill(options_.width, 1.0, 0.2);
    writer_.AddTensor(name, {options_.width}, GgufTensorType::kF32, EncodeTensor(GgufTensorType::kF32, values));
  }

  // `gain` 1 keeps the standard deviation of a normalised input.
  void Matrix(const std::string& name, int64_t rows, int64_t columns, double gain, GgufTensorType type) {
    const std::vector<float> values = noise_.Fill(rows * columns, 0.0, gain / std::sqrt(static_cast<double>(columns)));
    writer_.AddTensor(name, {rows, columns}, type, EncodeTensor(type, values));
  }

  void Layer(int64_t layer) {
    const auto name = [&](const char* part) { return absl::StrCat("blk.", layer, ".", part, ".weight"); };
    const int64_t width = options_.width;
    const int64_t q_width = options_.num_heads * options_.head_dim;
    const int64_t kv_width = options_.num_kv_heads * options_.head_dim;
    const int64_t feed_forward_width = options_.feed_forward_width;
    // Sharp attention, so that an answer depends on single tokens of the context.
    constexpr double kSharp = 1.5;
    Norm(name("attn_norm"));
    Matrix(name("attn_q"), q_width, width, kSharp, options_.matrix_type);
    Matrix(name("attn_k"), kv_width, width, kSharp, options_.matrix_type);
    Matrix(name("attn_v"), kv_width, width, 1.0, options_.matrix_type);
    Matrix(name("attn_output"), width, q_width, 1.0, options_.matrix_type);
    Norm(name("ffn_norm"));
    Matrix(name("ffn_gate"), feed_forward_width, width, 1.0, options_.matrix_type);
    Matrix(name("ffn_up"), feed_forward_width, width, 1.0, options_.matrix_type);
    Matrix(name("ffn_down"), width, feed_forward_width, 1.0, options_.matrix_type);
  }

 private:
  const TinyCheckpointOptions& options_;
  Noise noise_;
  GgufWriter& writer_;
};

}  // namespace

std::vector<std::string> TinyVocabulary() {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (std::string& token : ByteTokens()) tokens.push_back(std::move(token));
  for (const char* merge : kMerges) {
    const std::pair<std::string, std::string> sides = absl::StrSplit(merge, ' ');
    tokens.push_back(sides.first + sides.second);
  }
  return tokens;
}

std::string TinyCheckpointBytes(const TinyCheckpointOptions& options) {
  GgufWriter writer;
  AddConfig(options, writer);
  AddVocabulary(writer);
  TensorWriter tensors(options, writer);
  const auto vocab_size = static_cast<int64_t>(TinyVocabulary().size());
  // Rows of standard deviation 1, as a trained embedding has after its norm.
  tensors.Matrix("token_embd.weight", vocab_size, options.width, std::sqrt(static_cast<double>(options.width)),
                 options.embedding_type);
  for (int64_t layer = 0; layer < options.num_layers; ++layer) tensors.Layer(layer);
  tensors.Norm("output_norm.weight");
  // Logits with a deviation of 3: a clear favourite and plausible rivals.
  if (!options.tied_embeddings) {
    tensors.Matrix("output.weight", vocab_size, options.width, 3.0, options.embedding_type);
  }
  if (!options.rope_factors.empty()) {
    writer.AddTensor("rope_freqs.weight", {static_cast<int64_t>(options.rope_factors.size())}, GgufTensorType::kF32,
                     EncodeTensor(GgufTensorType::kF32, options.rope_factors));
  }
  return writer.Finish();
}

TinyCheckpoint::TinyCheckpoint(const TinyCheckpointOptions& options)
    : path_(std::filesystem::temp_directory_path() / "farspan_tiny_XXXXXX") {
  const int descriptor = ::mkstemp(path_.data());
  FARSPAN_CHECK(descriptor >= 0, "path ", path_);
  const std::string bytes = TinyCheckpointBytes(options);
  FARSPAN_CHECK(::write(descriptor, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), path_);
  ::close(descriptor);
}

TinyCheckpoint::~TinyCheckpoint() { std::filesystem::remove(path_); }

}  // namespace farspan
