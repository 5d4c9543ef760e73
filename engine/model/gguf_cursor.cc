// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf_cursor.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/check.h"

namespace farspan {

GgufCursor::GgufCursor(const ByteSource* source, size_t window_bytes) : source_(source), window_(window_bytes) {
  FARSPAN_CHECK(window_bytes > 0);
}

absl::Status GgufCursor::Require(std::string_view what, uint64_t size_bytes) const {
  if (size_bytes <= remaining()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(AbslView(what), ": expected ", size_bytes, " bytes at offset ",
                                                 position_, ", the file has ", remaining(), " left"));
}

absl::Status GgufCursor::FillWindow() {
  window_size_ = static_cast<size_t>(std::min<uint64_t>(window_.size(), remaining()));
  window_begin_ = position_;
  return source_->ReadAt(position_, std::span(window_).first(window_size_));
}

absl::Status GgufCursor::ReadBytes(std::string_view what, std::span<std::byte> out) {
  FARSPAN_RETURN_IF_ERROR(Require(what, out.size()));
  while (!out.empty()) {
    if (position_ == window_begin_ + window_size_) FARSPAN_RETURN_IF_ERROR(FillWindow());
    const size_t begin = static_cast<size_t>(position_ - window_begin_);
    const size_t count = std::min(out.size(), window_size_ - begin);
    std::memcpy(out.data(), window_.data() + begin, count);
    out = out.subspan(count);
    position_ += count;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::byte>> GgufCursor::ReadVector(std::string_view what, uint64_t size_bytes) {
  FARSPAN_RETURN_IF_ERROR(Require(what, size_bytes));
  std::vector<std::byte> bytes(static_cast<size_t>(size_bytes));
  FARSPAN_RETURN_IF_ERROR(ReadBytes(what, bytes));
  return bytes;
}

absl::StatusOr<std::string> GgufCursor::ReadString(std::string_view what, uint64_t max_bytes) {
  FARSPAN_ASSIGN_OR_RETURN(const uint64_t size_bytes, Read<uint64_t>(what));
  if (size_bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(AbslView(what), ": expected at most ", max_bytes, " bytes of text, got ", size_bytes));
  }
  FARSPAN_RETURN_IF_ERROR(Require(what, size_bytes));
  std::string text(static_cast<size_t>(size_bytes), '\0');
  FARSPAN_RETURN_IF_ERROR(ReadBytes(what, std::as_writable_bytes(std::span(text.data(), text.size()))));
  return text;
}

std::string QuoteFileText(std::string_view text) {
  constexpr size_t kMaxShownBytes = 64;
  const bool clipped = text.size() > kMaxShownBytes;
  return absl::StrCat("'", absl::CHexEscape(AbslView(text.substr(0, kMaxShownBytes))), clipped ? "...'" : "'");
}

}  // namespace farspan
