// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/prefix_index.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace farspan {
namespace {

const PrefixScope kScope = MakePrefixScope({.tenant = "tenant", .model_id = "model"});
const PrefixScope kOtherTenant = MakePrefixScope({.tenant = "other", .model_id = "model"});

// Pages are named by one token each.
class PrefixIndexTest : public ::testing::Test {
 protected:
  struct Named {
    std::vector<TokenId> tokens;
    PrefixPage page;
  };

  Named Name(TokenId token, const PrefixKey& parent = {}, const PrefixScope& scope = kScope) {
    Named named{.tokens = {token}};
    named.page = {.key = MakePrefixKey(scope, parent, named.tokens), .scope = scope};
    return named;
  }

  // Publishes a page of this token and lets go of it. Returns its place.
  const PrefixIndex::Node* Publish(TokenId token, const PrefixIndex::Node* parent, PrefixKey* key,
                                   const PrefixScope& scope = kScope) {
    Named named = Name(token, *key, scope);
    named.page.tokens = named.tokens;
    PageRef page = *pool_.Take();
    *key = named.page.key;
    return index_.Publish(parent, named.page, &page);
  }

  const PrefixIndex::Node* Find(TokenId token, const PrefixIndex::Node* parent, const PrefixKey& parent_key,
                                const PrefixScope& scope = kScope) {
    Named named = Name(token, parent_key, scope);
    named.page.tokens = named.tokens;
    return index_.Find(parent, named.page);
  }

  PagePool pool_{4};
  PrefixIndex index_{&pool_};
};

TEST_F(PrefixIndexTest, FindsAChainByItsTokensFromTheStart) {
  PrefixKey key = {};
  const auto* first = Publish(1, nullptr, &key);
  const PrefixKey first_key = key;
  const auto* second = Publish(2, first, &key);
  EXPECT_EQ(Find(1, nullptr, {}), first);
  EXPECT_EQ(Find(2, first, first_key), second);
  EXPECT_EQ(Find(2, nullptr, {}), nullptr) << "the same tokens elsewhere have other keys and values";
  EXPECT_EQ(Find(1, nullptr, {}, kOtherTenant), nullptr);
  EXPECT_EQ(pool_.num_cached(), 2);
  EXPECT_EQ(pool_.num_used(), 0);
}

TEST_F(PrefixIndexTest, AttachedPagesAreUsedAndStay) {
  PrefixKey key = {};
  const auto* node = Publish(1, nullptr, &key);
  PageRef held = index_.Attach(node);
  EXPECT_EQ(pool_.num_cached(), 0);
  EXPECT_EQ(pool_.num_used(), 1);
  EXPECT_FALSE(index_.EvictOne());
  held.Release();
  EXPECT_EQ(pool_.num_cached(), 1);
  EXPECT_TRUE(index_.EvictOne());
  EXPECT_EQ(pool_.num_free(), 4);
}

TEST_F(PrefixIndexTest, EqualContentIsKeptOnce) {
  PrefixKey key = {};
  const auto* node = Publish(1, nullptr, &key);
  Named again = Name(1);
  again.page.tokens = again.tokens;
  PageRef page = *pool_.Take();
  EXPECT_EQ(index_.Publish(nullptr, again.page, &page), node);
  EXPECT_EQ(page.page(), index_.page(*node)) << "the caller goes on with the cached page";
  EXPECT_EQ(pool_.num_free(), 3);
  EXPECT_EQ(index_.num_pages(), 1);
}

TEST_F(PrefixIndexTest, EvictsLeavesFirstAndTheLeastRecentlyUsedChain) {
  PrefixKey old_key = {}, new_key = {};
  const auto* old_root = Publish(1, nullptr, &old_key);
  Publish(2, old_root, &old_key);
  const auto* new_root = Publish(3, nullptr, &new_key);
  EXPECT_TRUE(index_.EvictOne());
  EXPECT_EQ(Find(1, nullptr, {}), old_root) << "its leaf went first";
  EXPECT_EQ(index_.num_pages(), 2);
  index_.TouchChain(old_root);
  EXPECT_TRUE(index_.EvictOne());
  EXPECT_EQ(Find(3, nullptr, {}), nullptr) << "the other one was in use more recently";
  EXPECT_EQ(Find(1, nullptr, {}), old_root);
  (void)new_root;
}

TEST_F(PrefixIndexTest, APageWhoseFollowersAreHeldTakesThemOutOfTheIndexOnly) {
  PrefixKey key = {};
  const auto* root = Publish(1, nullptr, &key);
  const PrefixKey root_key = key;
  const auto* leaf = Publish(2, root, &key);
  PageRef held = index_.Attach(leaf);
  EXPECT_TRUE(index_.EvictOne());
  EXPECT_EQ(index_.num_pages(), 0);
  EXPECT_EQ(pool_.num_used(), 1) << "whoever holds the page keeps it";
  EXPECT_EQ(Find(2, nullptr, root_key), nullptr);
}

TEST_F(PrefixIndexTest, AKeyCollisionIsNoHit) {
  PrefixKey key = {};
  const auto* root = Publish(1, nullptr, &key);
  // All three have one key, as if SHA-256 had collided.
  const std::vector<TokenId> other_tokens = {9}, tokens = {1};
  EXPECT_EQ(index_.Find(nullptr, {.key = key, .scope = kScope, .tokens = other_tokens}), nullptr);
  EXPECT_EQ(index_.Find(nullptr, {.key = key, .scope = kOtherTenant, .tokens = tokens}), nullptr);
  EXPECT_EQ(index_.Find(root, {.key = key, .scope = kScope, .tokens = tokens}), nullptr);
  PageRef page = *pool_.Take();
  EXPECT_EQ(index_.Publish(nullptr, {.key = key, .scope = kScope, .tokens = other_tokens}, &page), nullptr);
  EXPECT_EQ(index_.num_pages(), 1);
}

}  // namespace
}  // namespace farspan
