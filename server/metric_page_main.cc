// SPDX-License-Identifier: Apache-2.0
// farspan-metric-page: writes the documentation of the metrics, or says whether a file still equals it.
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "server/metric_page.h"

namespace {

constexpr int kBadUsage = 64;

int Check(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (file && text.str() == farspan::MetricPage()) return 0;
  std::cerr << path << " differs from server/metric_table.cc; run: farspan-metric-page " << path << "\n";
  return 1;
}

int Write(const std::string& path) {
  std::ofstream file(path);
  file << farspan::MetricPage();
  file.close();
  if (file) return 0;
  std::cerr << path << " cannot be written\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && argv[1][0] != '-') return Write(argv[1]);
  if (argc == 3 && std::string(argv[1]) == "--check") return Check(argv[2]);
  std::cerr << "usage: farspan-metric-page [--check] PATH\n";
  return kBadUsage;
}
