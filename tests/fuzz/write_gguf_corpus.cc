// SPDX-License-Identifier: Apache-2.0
// Writes the seeds of the GGUF fuzz target: a valid file, the smallest checkpoint that loads, and each malformed kind.
#include <cstdio>
#include <fstream>
#include <string>

#include "tests/engine/model/hostile_gguf.h"
#include "tests/support/tiny_checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_gguf_corpus FOLDER\n");
    return 64;
  }
  const std::string folder = argv[1];
  const auto write = [&folder](const std::string& name, const std::string& bytes) {
    std::ofstream(folder + "/" + name, std::ios::binary) << bytes;
  };
  constexpr size_t kMaxSeedBytes = 65536;
  for (const farspan::HostileGguf& file : farspan::HostileGgufFiles()) {
    if (file.bytes.size() <= kMaxSeedBytes) write(file.kind, file.bytes);
  }
  write("Valid", farspan::ValidGguf());
  write("TinyLlama", farspan::TinyCheckpointBytes({.num_layers = 1,
                                                   .width = 32,
                                                   .feed_forward_width = 32,
                                                   .num_heads = 2,
                                                   .num_kv_heads = 1,
                                                   .tied_embeddings = true}));
  return 0;
}
