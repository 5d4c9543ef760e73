// SPDX-License-Identifier: Apache-2.0
// Random operations on block tables that share a page pool and a prefix index, against the obvious model: what each
// sequence wrote, who holds which page, what is cached. Any difference ends the process.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/kv/block_table.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_index.h"
#include "tests/simulation/choices.h"

namespace farspan {

class PagesMachine {
 public:
  // `choices` outlives this.
  explicit PagesMachine(Choices* choices);

  void RunOneStep();
  // Each page in exactly one of free, cached and in use; references and contents as the model has them.
  void Check() const;
  // Gives everything back: all pages are free then.
  void ReleaseAll();

 private:
  static constexpr int64_t kPageTokens = 4;
  static constexpr int64_t kMaxTokens = 40;
  static constexpr size_t kNumSequences = 6;

  // What a page holds by the model: tokens, by place; nothing of a place that was not written since it was taken.
  struct PageContent {
    std::array<TokenId, kPageTokens> tokens{};
    int64_t num_written = 0;
  };
  struct Sequence {
    BlockTable table{kPageTokens};
    PrefixScope scope;
    std::vector<TokenId> tokens;  // those whose places are written
    int64_t num_published = 0;
    const PrefixIndex::Node* last = nullptr;
    bool closed = false;  // has dropped pages, or holds some that the index does not know
  };

  void Grow(Sequence* sequence);
  void Write(Sequence* sequence, TokenId token);
  void Publish(Sequence* sequence);
  void Attach(Sequence* sequence);
  void Fork(Sequence* sequence, const Sequence& other);
  void Drop(Sequence* sequence);
  void Release(Sequence* sequence);
  void Evict();
  bool TakeInto(PageRef* page);
  std::vector<TokenId> PageTokens(const Sequence& sequence, int64_t page) const;
  PrefixKey KeyOf(const Sequence& sequence, int64_t page) const;
  void CheckContent(const Sequence& sequence) const;
  PageContent& ContentOf(PageId page) { return contents_[static_cast<size_t>(page)]; }
  const PageContent& ContentOf(PageId page) const { return contents_[static_cast<size_t>(page)]; }

  Choices* const choices_;
  PagePool pool_;
  PrefixIndex index_{&pool_};
  std::vector<PageContent> contents_;
  std::array<PrefixScope, 2> scopes_;
  std::vector<Sequence> sequences_{kNumSequences};
};

}  // namespace farspan
