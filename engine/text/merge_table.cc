// SPDX-License-Identifier: Apache-2.0
#include "engine/text/merge_table.h"

#include <algorithm>
#include <array>
#include <functional>
#include <queue>
#include <utility>

namespace farspan {
namespace {

// Up to this many symbols, searching the word for each merge beats keeping a queue.
constexpr size_t kShortWordSymbols = 32;
constexpr int32_t kNoRank = INT32_MAX;

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

// A linked list of symbols and, for each rank that occurs, the positions where it was seen. A pair cannot come into
// being again once its own merge has begun (every symbol made from then on is longer than both of its halves), so each
// list of positions is sorted once.
class MergeTable::LongWord {
 public:
  LongWord(const MergeTable& table, std::vector<TokenId>& word)
      : table_(table), symbols_(word), previous_(word.size()), next_(word.size()) {
    const int32_t size = static_cast<int32_t>(word.size());
    for (int32_t i = 0; i < size; ++i) {
      previous_[i] = i - 1;
      next_[i] = i + 1 < size ? i + 1 : kNone;
    }
    for (int32_t i = 0; i < size; ++i) Offer(i);
  }

  void MergeAll() {
    while (!ranks_.empty()) {
      Candidates& candidates = candidates_[ranks_.top().second];
      if (candidates.cursor == candidates.positions.size()) {
        ranks_.pop();
        continue;
      }
      if (!candidates.sorted) {
        std::sort(candidates.positions.begin() + static_cast<int64_t>(candidates.cursor), candidates.positions.end());
        candidates.sorted = true;
      }
      MergeAt(candidates.positions[candidates.cursor++], candidates.left, candidates.right, candidates.product);
    }
    int32_t size = 0;
    for (int32_t i = 0; i != kNone; i = next_[i]) symbols_[size++] = symbols_[i];
    symbols_.resize(size);
  }

  int64_t num_lookups() const { return num_lookups_; }

 private:
  static constexpr int32_t kNone = -1;
  struct Candidates {
    TokenId left;
    TokenId right;
    TokenId product;
    std::vector<int32_t> positions = {};
    size_t cursor = 0;
    bool sorted = true;
  };

  // Queues the pair that begins at `position`, if it has a merge.
  void Offer(int32_t position) {
    if (position == kNone || next_[position] == kNone) return;
    const TokenId left = symbols_[position];
    const TokenId right = symbols_[next_[position]];
    ++num_lookups_;
    const Merge* merge = table_.Find(left, right);
    if (merge == nullptr) return;
    const auto [it, inserted] = index_of_rank_.try_emplace(merge->rank, candidates_.size());
    if (inserted) candidates_.push_back({left, right, merge->product});
    Candidates& candidates = candidates_[it->second];
    if (candidates.cursor == candidates.positions.size()) {
      ranks_.emplace(merge->rank, it->second);
    } else if (position < candidates.positions.back()) {
      candidates.sorted = false;
    }
    candidates.positions.push_back(position);
  }

  // Does nothing where an earlier merge has taken one of the two.
  void MergeAt(int32_t position, TokenId left, TokenId right, TokenId product) {
    const int32_t right_position = next_[position];
    if (symbols_[position] != left || right_position == kNone || symbols_[right_position] != right) return;
    symbols_[position] = product;
    symbols_[right_position] = kNone;
    next_[position] = next_[right_position];
    next_[right_position] = kNone;
    if (next_[position] != kNone) previous_[next_[position]] = position;
    Offer(previous_[position]);
    Offer(position);
  }

  const MergeTable& table_;
  std::vector<TokenId>& symbols_;  // kNone where a symbol was taken by its left neighbour
  std::vector<int32_t> previous_;
  std::vector<int32_t> next_;
  std::vector<Candidates> candidates_;
  absl::flat_hash_map<int32_t, size_t> index_of_rank_;  // into candidates_
  using RankAndIndex = std::pair<int32_t, size_t>;
  std::priority_queue<RankAndIndex, std::vector<RankAndIndex>, std::greater<>> ranks_;
  int64_t num_lookups_ = 0;
};

bool MergeTable::Add(TokenId left, TokenId right, TokenId product) {
  const int32_t rank = static_cast<int32_t>(merges_.size());
  return merges_.try_emplace(PairKey(left, right), Merge{rank, product}).second;
}

const MergeTable::Merge* MergeTable::Find(TokenId left, TokenId right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

int64_t MergeTable::Apply(std::vector<TokenId>& word) const {
  if (word.size() <= kShortWordSymbols) return ApplyToShortWord(word);
  LongWord long_word(*this, word);
  long_word.MergeAll();
  return long_word.num_lookups();
}

int64_t MergeTable::ApplyToShortWord(std::vector<TokenId>& word) const {
  int64_t num_lookups = 0;
  std::array<Merge, kShortWordSymbols> merges;  // merges[i] is that of (word[i], word[i + 1])
  const auto look_up = [&](size_t i) {
    ++num_lookups;
    const Merge* merge = Find(word[i], word[i + 1]);
    merges[i] = merge == nullptr ? Merge{kNoRank, 0} : *merge;
  };
  for (size_t i = 0; i + 1 < word.size(); ++i) look_up(i);
  while (word.size() > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < word.size(); ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNoRank) break;
    word[best] = merges[best].product;
    std::copy(word.begin() + static_cast<int64_t>(best) + 2, word.end(), word.begin() + static_cast<int64_t>(best) + 1);
    std::copy(merges.begin() + best + 1, merges.begin() + word.size() - 1, merges.begin() + best);
    word.pop_back();
    if (best > 0) look_up(best - 1);
    if (best + 1 < word.size()) look_up(best);
  }
  return num_lookups;
}

}  // namespace farspan
