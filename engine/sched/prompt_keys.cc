// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/prompt_keys.h"

#include <span>

namespace farspan {

PromptKeys MakePromptKeys(const Request& request, std::string_view model_id, const ModelShape& shape) {
  const std::span<const TokenId> prompt = request.prompt;
  const auto page_tokens = static_cast<size_t>(shape.page_tokens);
  PromptKeys keys;
  keys.prompt_scope = MakePrefixScope({.tenant = request.tenant,
                                       .model_id = model_id,
                                       .fingerprint = request.policy->prefill_fingerprint(),
                                       .kv_dtype = shape.kv_dtype});
  keys.decode_scope = MakePrefixScope({.tenant = request.tenant,
                                       .model_id = model_id,
                                       .fingerprint = request.policy->decode_fingerprint(),
                                       .kv_dtype = shape.kv_dtype,
                                       .decoded_from = static_cast<int64_t>(prompt.size() % page_tokens)});
  for (size_t end = page_tokens; end <= prompt.size(); end += page_tokens) {
    const PrefixKey parent = keys.keys.empty() ? PrefixKey{} : keys.keys.back();
    keys.keys.push_back(MakePrefixKey(keys.prompt_scope, parent, prompt.subspan(end - page_tokens, page_tokens)));
  }
  return keys;
}

}  // namespace farspan
