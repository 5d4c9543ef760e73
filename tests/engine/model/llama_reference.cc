// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/model/llama_reference.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/dequantize.h"

namespace farspan {
namespace {

using Vector = std::vector<double>;
using Matrix = std::vector<Vector>;  // [row][column]

Matrix ReadMatrix(const GgufFile& file, const std::string& name) {
  const GgufTensor& tensor = *file.FindTensor(name);
  Matrix matrix;
  for (int64_t row = 0; row < tensor.rows(); ++row) {
    std::vector<std::byte> bytes(static_cast<size_t>(tensor.row_bytes()));
    if (!file.ReadTensor(tensor, row * tensor.row_bytes(), bytes).ok()) return {};
    std::vector<float> values(static_cast<size_t>(tensor.columns()));
    DequantizeRow(tensor.type, bytes, values);
    matrix.emplace_back(values.begin(), values.end());
  }
  return matrix;
}

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Vector Multiply(const Matrix& matrix, const Vector& x) {
  Vector y;
  for (const Vector& row : matrix) y.push_back(Dot(row, x));
  return y;
}

void AddTo(Vector& sum, const Vector& x) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += x[i];
}

class Reference {
 public:
  explicit Reference(const GgufFile& file) : file_(file) {}

  Matrix Run(std::span<const TokenId> tokens) const {
    const Matrix embedding = ReadMatrix(file_, "token_embd.weight");
    Matrix hidden;
    for (const TokenId token : tokens) hidden.push_back(embedding[static_cast<size_t>(token)]);
    for (int64_t layer = 0; layer < Number("block_count"); ++layer) {
      Attend(layer, hidden);
      FeedForward(layer, hidden);
    }
    const bool tied = file_.FindTensor("output.weight") == nullptr;
    const Matrix output = tied ? embedding : ReadMatrix(file_, "output.weight");
    Matrix logits;
    for (const Vector& row : hidden) logits.push_back(Multiply(output, Norm("output_norm.weight", row)));
    return logits;
  }

 private:
  int64_t Number(const char* key) const {
    return static_cast<int64_t>(*file_.metadata().GetUint(absl::StrCat("llama.", key), 0, 1 << 30));
  }

  Vector Norm(const std::string& name, const Vector& x) const {
    const Vector weight = ReadMatrix(file_, name)[0];
    const double epsilon = *file_.metadata().GetFloat("llama.attention.layer_norm_rms_epsilon", 0, 1);
    const double scale = 1 / std::sqrt(Dot(x, x) / static_cast<double>(x.size()) + epsilon);
    Vector out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * scale * weight[i]);
    return out;
  }

  // Pairs of channels as complex numbers, turned by position * frequency.
  void Rotate(Vector& heads, int64_t position) const {
    const int64_t head_dim = Number("attention.key_length");
    const int64_t rope_dim = Number("rope.dimension_count");
    const double base = *file_.metadata().GetFloat("llama.rope.freq_base", 1, 1e12);
    const double linear = file_.metadata().Has("llama.rope.scaling.factor")
                              ? *file_.metadata().GetFloat("llama.rope.scaling.factor", 1, 100)
                              : 1.0;
    const bool has_factors = file_.FindTensor("rope_freqs.weight") != nullptr;
    const Vector factors = has_factors ? ReadMatrix(file_, "rope_freqs.weight")[0] : Vector(head_dim / 2, 1.0);
    for (size_t head = 0; head < heads.size(); head += static_cast<size_t>(head_dim)) {
      for (int64_t i = 0; i < rope_dim / 2; ++i) {
        const double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim));
        const double angle = static_cast<double>(position) * frequency / factors[i] / linear;
        double* pair = &heads[head + 2 * i];
        const std::complex<double> turned = std::complex<double>(pair[0], pair[1]) * std::polar(1.0, angle);
        pair[0] = turned.real();
        pair[1] = turned.imag();
      }
    }
  }

  Vector AttendOne(const Vector& query, const Matrix& keys, const Matrix& values, size_t position) const {
    const int64_t heads = Number("attention.head_count");
    const int64_t group = heads / Number("attention.head_count_kv");
    const int64_t head_dim = Number("attention.key_length");
    Vector out(query.size(), 0.0);
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t q = head * head_dim, kv = head / group * head_dim;
      Vector scores;
      for (size_t j = 0; j <= position; ++j) {
        double score = 0;
        for (int64_t i = 0; i < head_dim; ++i) score += query[q + i] * keys[j][kv + i];
        scores.push_back(score / std::sqrt(static_cast<double>(head_dim)));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& score : scores) sum += score = std::exp(score - largest);
      for (size_t j = 0; j <= position; ++j) {
        for (int64_t i = 0; i < head_dim; ++i) out[q + i] += scores[j] / sum * values[j][kv + i];
      }
    }
    return out;
  }

  void Attend(int64_t layer, Matrix& hidden) const {
    const auto name = [layer](const char* part) { return absl::StrCat("blk.", layer, ".", part, ".weight"); };
    const Matrix q = ReadMatrix(file_, name("attn_q")), k = ReadMatrix(file_, name("attn_k"));
    const Matrix v = ReadMatrix(file_, name("attn_v")), out = ReadMatrix(file_, name("attn_output"));
    Matrix keys, values;
    for (size_t t = 0; t < hidden.size(); ++t) {
      const Vector normed = Norm(name("attn_norm"), hidden[t]);
      Vector query = Multiply(q, normed);
      keys.push_back(Multiply(k, normed));
      values.push_back(Multiply(v, normed));
      Rotate(query, static_cast<int64_t>(t));
      Rotate(keys.back(), static_cast<int64_t>(t));
      AddTo(hidden[t], Multiply(out, AttendOne(query, keys, values, t)));
    }
  }

  void FeedForward(int64_t layer, Matrix& hidden) const {
    const auto name = [layer](const char* part) { return absl::StrCat("blk.", layer, ".", part, ".weight"); };
    const Matrix gate = ReadMatrix(file_, name("ffn_gate")), up = ReadMatrix(file_, name("ffn_up"));
    const Matrix down = ReadMatrix(file_, name("ffn_down"));
    for (Vector& row : hidden) {
      const Vector normed = Norm(name("ffn_norm"), row);
      Vector gated = Multiply(gate, normed);
      const Vector ups = Multiply(up, normed);
      for (size_t i = 0; i < gated.size(); ++i) gated[i] = gated[i] / (1 + std::exp(-gated[i])) * ups[i];
      AddTo(row, Multiply(down, gated));
    }
  }

  const GgufFile& file_;
};

}  // namespace

std::vector<std::vector<double>> ReferenceLogits(const GgufFile& file, std::span<const TokenId> tokens) {
  return Reference(file).Run(tokens);
}

}  // namespace farspan
