# SPDX-License-Identifier: Apache-2.0
"""Each check of this folder finds a violation that is planted, and nothing in a tree that has none."""

from __future__ import annotations

import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path

import format as format_check
import layering
import policies_documented
import sizes
import spelling_of_the_house as spelling
from source_tree import Offence, source_files, without_comments_and_strings

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"
HEADER = SPDX + "#pragma once\n"


class CheckTest(unittest.TestCase):
    """A scratch tree, and what a check says of it."""

    def setUp(self) -> None:
        """Starts with an empty tree."""
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)

    def plant(self, path: str, content: str) -> None:
        """Writes a file of the tree."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")

    def expect_offence(self, check: Callable[[Path], list[Offence]], path: str, line: int, word: str) -> None:
        """The one offence of the tree."""
        offences = check(self.root)
        self.assertEqual([(offence.path, offence.line) for offence in offences], [(path, line)], offences)
        self.assertIn(word, offences[0].message)


class LayeringTest(CheckTest):
    """The table of who sees whom."""

    def plant_include(self, path: str, include: str) -> None:
        """A file that includes another one, and that one where it is ours."""
        if include.startswith('"') and include.split("/")[0].strip('"') in ("engine", "server", "clients", "tests"):
            self.plant(include.strip('"'), HEADER)
        self.plant(path, f"{SPDX}#include {include}\n")

    def test_refuses_each_forbidden_edge(self) -> None:
        """One for each layer: ours that stands above it, and libraries that it must not see."""
        forbidden = {
            "engine/base/x.h": ['"engine/kv/page_pool.h"', "<spdlog/spdlog.h>", '"farspan/v1/attention.pb.h"'],
            "engine/kernels/cpu/x.cc": ['"engine/base/check.h"', '"absl/status/status.h"', "<cuda_runtime.h>"],
            "engine/attention/x.cc": ['"engine/sched/scheduler.h"', '"engine/kernels/args.h"', "<grpcpp/grpcpp.h>"],
            "engine/attention/plan.h": ['"farspan/v1/attention.pb.h"', '"engine/attention/registry.h"'],
            "engine/backend/x.cc": ['"engine/attention/policy.h"', '"engine/model/model.h"', "<cuda_runtime.h>"],
            "engine/kv/page_pool.cc": ['"engine/backend/backend.h"', '"engine/kv/kv_cache.h"'],
            "engine/kv/kv_cache.cc": ['"engine/sched/sequence.h"', '"engine/kv/page_pool.h"'],
            "engine/model/x.cc": ['"engine/attention/policy.h"', '"engine/request.h"', '"engine/text/tokenizer.h"'],
            "engine/sampling/x.cc": ['"engine/backend/backend.h"', "<prometheus/counter.h>"],
            "engine/text/x.cc": ['"engine/sampling/sampler.h"', '"farspan/v1/inference.pb.h"'],
            "engine/metrics/x.h": ['"engine/sched/sequence.h"', "<prometheus/counter.h>"],
            "engine/request.h": ['"engine/sampling/sampler.h"', '"engine/kv/page_pool.h"'],
            "engine/sched/x.cc": ['"engine/kv/kv_cache.h"', '"engine/backend/backend.h"', '"engine/model/model.h"'],
            "engine/x.cc": ['"engine/text/tokenizer.h"', "<grpcpp/grpcpp.h>", '"server/config.h"'],
            "server/x.cc": ['"engine/kernels/cpu/kernel_table.h"', "<cuda_runtime.h>", '"clients/cpp/client.h"'],
            "clients/cli/x.cc": ['"engine/base/check.h"', '"server/config.h"', "<prometheus/counter.h>"],
        }
        for path, includes in forbidden.items():
            for include in includes:
                with self.subTest(path=path, include=include):
                    self.plant_include(path, include)
                    self.expect_offence(layering.check, path, 2, include.strip('"<>'))
                    (self.root / path).unlink()

    def test_allows_what_the_table_names(self) -> None:
        """The edges that are easily forbidden by mistake."""
        allowed = {
            "engine/base/log.cc": "<spdlog/spdlog.h>",
            "engine/kernels/cuda/x.cu": "<cuda_runtime.h>",
            "engine/kv/kv_cache.h": '"engine/backend/backend.h"',
            "engine/metrics/metrics_sink.h": '"engine/output.h"',
            "engine/model/gguf_vocabulary.h": '"engine/text/tokenizer.h"',
            "engine/sched/x.h": '"engine/sampling/token_counts.h"',
            "clients/cpp/x.cc": '"grpc/health/v1/health.pb.h"',
            "tests/engine/x_test.cc": "<gtest/gtest.h>",
        }
        for path, include in allowed.items():
            self.plant_include(path, include)
        self.assertEqual(layering.check(self.root), [])

    def test_refuses_files_and_includes_that_it_does_not_know(self) -> None:
        """A new folder or library needs a line in the table."""
        self.plant("engine/novel/x.h", HEADER)
        self.plant("engine/base/x.h", HEADER + '#include "x/y.h"\n')
        offences = [(offence.path, offence.line) for offence in layering.check(self.root)]
        self.assertEqual(offences, [("engine/base/x.h", 3), ("engine/novel/x.h", 1)])


class SizesTest(CheckTest):
    """Limits of files and functions."""

    def test_files_at_and_over_the_limit(self) -> None:
        """Kernels may be longer."""
        self.plant("engine/base/x.h", "\n" * 400)
        self.plant("engine/kernels/x.h", "\n" * 600)
        self.assertEqual(sizes.check(self.root), [])
        self.plant("engine/base/x.h", "\n" * 401)
        self.expect_offence(sizes.check, "engine/base/x.h", 401, "401 lines")
        self.plant("engine/base/x.h", "")
        self.plant("engine/kernels/x.h", "\n" * 601)
        self.expect_offence(sizes.check, "engine/kernels/x.h", 601, "601 lines")

    def test_functions_at_and_over_the_limit(self) -> None:
        """In every language that we write, wherever the function stands."""
        cases = {
            "a.cc": "namespace n {\nint F(int a,\n      int b) {\nBODY}\n}\n",
            "b.cc": "class C : public D {\n  C() : a_(1) {}\n  bool operator==(const C& c) const {\nBODY  }\n};\n",
            "c.cc": "const int k[] = {1, 2};\ntemplate <typename T>\nT F() {\n  if (x) {\nBODY  }\n}\n",
            "d.cc": "TEST(Name, Case) {\n  auto f = [] {\nBODY  };\n}\n",
            "e.py": "def f():\nBODY",
            "f.sh": "f() {\nBODY}\n",
        }
        for path, template in cases.items():
            with self.subTest(path=path):
                self.plant(path, template.replace("BODY", "  x;\n" * 50))
                self.assertEqual(sizes.check(self.root), [])
                self.plant(path, template.replace("BODY", "  x;\n" * 60))
                offences = sizes.check(self.root)
                self.assertEqual([offence.path for offence in offences], [path])
                (self.root / path).unlink()

    def test_long_types_and_tables_are_no_functions(self) -> None:
        """Only the length of a file limits them."""
        self.plant("a.h", "struct S {\n" + "  int f(int a = 3) const;\n" * 70 + "};\n")
        self.plant("b.cc", "constexpr Row kTable[] = {\n" + "    {1, 2},\n" * 70 + "};\n")
        self.plant("c.cc", 'const char* const kText = R"(\n' + "f() {\n" * 70 + ')";\n')
        self.assertEqual(sizes.check(self.root), [])


class SpellingTest(CheckTest):
    """One planted line for each rule."""

    def test_each_rule_finds_its_violation(self) -> None:
        """The violation stands on line 3."""
        planted = {
            "engine/a.cc": [
                "std::regex r;",
                "absl::Mutex m;",
                "using namespace std;",
                "  throw 1;",
                "#include <regex>",
            ],
            "engine/b.cc": ["class PageManager {", "struct StringUtils;", "using TableImpl = int;", "class TestBase {"],
            "engine/c.cc": ["#include <immintrin.h>", "#include <ranges>", '#include "absl/synchronization/mutex.h"'],
            "tests/d_test.cc": ["std::this_thread::sleep_for(d);", "absl::SleepFor(d);"],
            "engine/CMakeLists.txt": ["file(GLOB sources *.cc)", "  file( glob sources *.cc)"],
            "server/e.h": ["// " + "TO" + "DO: later", "// FIX" + "ME"],
        }
        for path, lines in planted.items():
            for line in lines:
                with self.subTest(path=path, line=line):
                    self.plant(path, f"{HEADER}{line}\n")
                    self.expect_offence(spelling.check, path, 3, line.strip())
                    (self.root / path).unlink()

    def test_licence_lines_guards_and_file_names(self) -> None:
        """What is missing counts as line 1."""
        for path in ("a.cc", "a.py", "a.sh", "a.proto", "a.cu"):
            with self.subTest(path=path):
                self.plant(path, "x\n")
                self.expect_offence(spelling.check, path, 1, "SPDX")
                (self.root / path).unlink()
        self.plant("a.h", SPDX)
        self.expect_offence(spelling.check, "a.h", 1, "#pragma once")
        (self.root / "a.h").unlink()
        for name in ("page_manager.cc", "string_util.cc", "utils.cc", "engine_impl.cc"):
            with self.subTest(name=name):
                self.plant(name, SPDX)
                self.expect_offence(spelling.check, name, 1, "after what it holds")
                (self.root / name).unlink()

    def test_what_is_allowed(self) -> None:
        """Words in comments and literals, hidden implementations, intrinsics where they belong."""
        self.plant("engine/kernels/cpu/avx2/x.cc", SPDX + "#include <immintrin.h>\n")
        self.plant(
            "engine/a.cc", SPDX + '// We throw nothing.\nconst char* s = "std::regex";\nstruct Impl;\nclass Database;\n'
        )
        self.plant("a.sh", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n")
        self.plant("notes.txt", "no licence line is asked of it\n")
        self.assertEqual(spelling.check(self.root), [])


class PoliciesDocumentedTest(CheckTest):
    """The README's table against the oneof."""

    PROTO = """
      oneof policy {
        // Text.
        DenseAttention dense = 1 [(variant) = {doc: "All."}];
        WindowAttention window = 2 [(variant) = {
          doc: "Ends."
        }];
      }
    """
    POLICIES = "| Policy | What |\n|---|---|\n| `dense` | all |\n| `window {sink_tokens}` | ends |\n"
    TABLE = POLICIES + "\n| Flag |\n|---|\n| `port` |\n"

    def test_a_missing_row_and_a_stale_one(self) -> None:
        """Rows of other tables are not looked at."""
        self.plant(policies_documented.PROTO, self.PROTO)
        self.plant("README.md", self.TABLE)
        self.assertEqual(policies_documented.check(self.root), [])
        self.plant("README.md", self.TABLE.replace("| `dense` | all |\n", ""))
        self.expect_offence(policies_documented.check, "README.md", 1, "`dense`")
        self.plant("README.md", self.TABLE.replace("| `dense` | all |\n", "| `dense` | all |\n| `gone` | x |\n"))
        self.expect_offence(policies_documented.check, "README.md", 4, "`gone`")


class FormatTest(CheckTest):
    """clang-format, where there is one."""

    @unittest.skipIf(format_check.clang_format() is None, "no clang-format 14 is installed")
    def test_finds_the_unformatted_line(self) -> None:
        """And accepts the formatted one."""
        self.plant(".clang-format", "BasedOnStyle: Google\n")
        self.plant("a.cc", "int a;\n")
        self.assertEqual(format_check.check(self.root), [])
        self.plant("b.cc", "int a;\nint  b ;\n")
        self.expect_offence(format_check.check, "b.cc", 2, "format")


class SourceTreeTest(CheckTest):
    """What every check relies on."""

    def test_build_folders_are_left_out(self) -> None:
        """A tree without git is walked."""
        for path in ("engine/a.cc", "build/x/a.cc", "build-debug/a.cc", "out/a.cc", ".ci/run"):
            self.plant(path, SPDX)
        self.assertEqual([file.path for file in source_files(self.root)], [".ci/run", "engine/a.cc"])

    def test_comments_and_literals_are_blanked_in_place(self) -> None:
        """Digit separators open no literal, and lines keep their numbers."""
        code = 'a /* 1\n2 */ b // c\nd("// no", \'"\', 1\'000, R"x(\n)")x") e'
        blanked = without_comments_and_strings(code)
        self.assertEqual(blanked.count("\n"), code.count("\n"))
        self.assertEqual("".join(blanked.split()), "abd(,,1'000,)e")


if __name__ == "__main__":
    unittest.main()
