// SPDX-License-Identifier: Apache-2.0
#include "clients/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <map>
#include <vector>

#include "clients/cpp/error_details.h"
#include "tests/clients/fake_server.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Writer = grpc::ServerWriter<v1::GenerateResponse>;

// Remembers what it was given.
class RecordingStream final : public GenerateStream {
 public:
  void OnEvent(const v1::GenerateResponse& event) override {
    texts.push_back(event.delta().text());
    if (cancel_at_event) Cancel();
  }
  void OnDone(const absl::Status& end) override {
    status = end;
    done.count_down();
  }

  bool cancel_at_event = false;
  std::vector<std::string> texts;
  absl::Status status;
  std::latch done{1};  // counted down twice would be an error of the latch
};

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() : client_(*Client::Connect(server_.target())) {
    server_.handlers().generate = [](const v1::GenerateRequest& request, Writer* writer) {
      writer->Write(Delta("a", {1}));
      writer->Write(Delta(request.spec().prompt().text(), {2}));
      return grpc::Status::OK;
    };
  }

  // Answers until the client leaves.
  void StreamForEver() {
    server_.handlers().generate = [this](const v1::GenerateRequest&, Writer* writer) {
      while (writer->Write(Delta("a", {1}))) {
      }
      left_.count_down();
      return grpc::Status::OK;
    };
  }

  static bool Ignore(const v1::GenerateResponse&) { return true; }

  std::latch left_{1};
  FakeServer server_;
  Client client_;
  v1::GenerateRequest request_;
};

TEST_F(ClientTest, RefusesMalformedTargets) {
  for (const char* target : {"", "localhost", ":80", "host:", "host:0", "host:65536", "host:x", "::1:80", "unix:"}) {
    EXPECT_THAT(Client::Connect(target), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("HOST:PORT")))
        << target;
  }
  for (const char* target : {"localhost:1", "[::1]:80", "unix:/run/farspan.sock"}) {
    EXPECT_THAT(Client::Connect(target), IsOk()) << target;
  }
}

TEST_F(ClientTest, DeliversEventsInOrder) {
  request_.mutable_spec()->mutable_prompt()->set_text("b");
  std::vector<std::string> texts;
  const auto collect = [&](const v1::GenerateResponse& event) {
    texts.push_back(event.delta().text());
    return true;
  };
  EXPECT_THAT(client_.Generate(request_, collect), IsOk());
  EXPECT_THAT(texts, ElementsAre("a", "b"));
}

TEST_F(ClientTest, CallbackThatReturnsFalseCancels) {
  StreamForEver();
  int events = 0;
  const auto first_only = [&](const v1::GenerateResponse&) {
    ++events;
    return false;
  };
  EXPECT_THAT(client_.Generate(request_, first_only), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_EQ(events, 1);
  left_.wait();
}

TEST_F(ClientTest, StopRequestCancels) {
  StreamForEver();
  std::stop_source stop;
  const auto stop_at_first = [&](const v1::GenerateResponse&) {
    stop.request_stop();
    return true;
  };
  EXPECT_THAT(client_.Generate(request_, stop_at_first, {.stop = stop.get_token()}),
              StatusIs(absl::StatusCode::kCancelled, _));
  left_.wait();
}

TEST_F(ClientTest, StopRequestedBeforeTheCallCancelsIt) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(client_.Generate(request_, Ignore, {.stop = stop.get_token()}),
              StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_THAT(client_.GetServerInfo({.stop = stop.get_token()}), StatusIs(absl::StatusCode::kCancelled, _));
}

TEST_F(ClientTest, TimeoutEndsTheCall) {
  StreamForEver();
  EXPECT_THAT(client_.Generate(request_, Ignore, {.timeout = std::chrono::milliseconds(100)}),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  left_.wait();
}

TEST_F(ClientTest, PushesEventsThenDone) {
  request_.mutable_spec()->mutable_prompt()->set_text("b");
  const auto stream = std::make_shared<RecordingStream>();
  client_.Start(request_, stream);
  stream->done.wait();
  EXPECT_THAT(stream->status, IsOk());
  EXPECT_THAT(stream->texts, ElementsAre("a", "b"));
}

TEST_F(ClientTest, PushedStreamCancelsFromItsOwnEvent) {
  StreamForEver();
  const auto stream = std::make_shared<RecordingStream>();
  stream->cancel_at_event = true;
  client_.Start(request_, stream);
  stream->done.wait();
  EXPECT_THAT(stream->status, StatusIs(absl::StatusCode::kCancelled, _));
  left_.wait();
}

TEST_F(ClientTest, PushedStreamCancelledBeforeItsStartEndsAtOnce) {
  const auto stream = std::make_shared<RecordingStream>();
  stream->Cancel();
  client_.Start(request_, stream);
  stream->done.wait();
  EXPECT_THAT(stream->status, StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_THAT(stream->texts, ElementsAre());
}

TEST_F(ClientTest, CancelAfterTheEndDoesNothing) {
  const auto stream = std::make_shared<RecordingStream>();
  client_.Start(request_, stream);
  stream->done.wait();
  stream->Cancel();
  EXPECT_THAT(stream->status, IsOk());
}

TEST_F(ClientTest, PushedStreamHasADeadline) {
  StreamForEver();
  const auto stream = std::make_shared<RecordingStream>();
  client_.Start(request_, stream, {.timeout = std::chrono::milliseconds(100)});
  stream->done.wait();
  EXPECT_THAT(stream->status, StatusIs(absl::StatusCode::kDeadlineExceeded, _));
}

TEST_F(ClientTest, ManyStreamsShareOneConnection) {
  std::vector<std::shared_ptr<RecordingStream>> streams;
  for (int i = 0; i < 32; ++i) {
    request_.mutable_spec()->mutable_prompt()->set_text(std::to_string(i));
    client_.Start(request_, streams.emplace_back(std::make_shared<RecordingStream>()));
  }
  for (int i = 0; i < 32; ++i) {
    streams[i]->done.wait();
    EXPECT_THAT(streams[i]->texts, ElementsAre("a", std::to_string(i)));
  }
}

TEST_F(ClientTest, TenantAndTraceGoWithTheCall) {
  std::map<std::string, std::string> sent;
  server_.handlers().metadata = [&](const auto& metadata) {
    for (const auto& [key, value] : metadata) sent[std::string(key.data(), key.size())] = {value.data(), value.size()};
  };
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_THAT(client_.Generate(request_, Ignore, {.tenant = "acme", .traceparent = trace}), IsOk());
  EXPECT_EQ(sent["x-farspan-tenant"], "acme");
  EXPECT_EQ(sent["traceparent"], trace);
}

TEST_F(ClientTest, MetadataThatNoCallCanCarryIsRefusedWithoutOne) {
  for (const std::string& tenant :
       {std::string("a\nb"), std::string("\xC3\xA9"), std::string(65, 'a'), std::string(" ")}) {
    EXPECT_THAT(client_.Generate(request_, Ignore, {.tenant = tenant}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 to 64 printable ASCII")));
    const auto stream = std::make_shared<RecordingStream>();
    client_.Start(request_, stream, {.tenant = tenant});
    stream->done.wait();
    EXPECT_EQ(stream->status.code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(client_.Generate(request_, Ignore, {.traceparent = "00\n"}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, FailuresKeepTheirDetails) {
  google::rpc::ErrorInfo info;
  info.set_reason("QUEUE_FULL");
  info.set_domain("farspan");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  google::rpc::BadRequest bad;
  bad.add_field_violations()->set_field("spec.prompt");
  google::rpc::RequestInfo request_info;
  request_info.set_request_id("r-1");
  server_.handlers().info = [&](v1::GetServerInfoResponse*) {
    return StatusWith(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", {&info, &retry, &bad, &request_info});
  };
  const absl::Status status = client_.GetServerInfo().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, "full"));
  const ErrorDetails details = ErrorDetailsOf(status);
  EXPECT_EQ(details.info.reason(), "QUEUE_FULL");
  EXPECT_EQ(details.retry_delay, absl::Seconds(2));
  EXPECT_EQ(details.bad_request.field_violations(0).field(), "spec.prompt");
  EXPECT_EQ(details.request_id, "r-1");
}

TEST_F(ClientTest, MalformedDetailsCountAsAbsent) {
  server_.handlers().info = [](v1::GetServerInfoResponse*) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "boom", "\xff\xff\xff");
  };
  const absl::Status status = client_.GetServerInfo().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, "boom"));
  EXPECT_EQ(ErrorDetailsOf(status).info.reason(), "");
  EXPECT_EQ(ErrorDetailsOf(status).retry_delay, std::nullopt);
}

TEST_F(ClientTest, UnreachableServerIsUnavailableWithoutAReason) {
  const absl::StatusOr<Client> client = Client::Connect(RefusingTarget());
  const absl::Status status = client->GetServerInfo().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_EQ(ErrorDetailsOf(status).info.reason(), "");
}

TEST_F(ClientTest, ReceivesMessagesAboveTheLibrarysDefaultLimit) {
  server_.handlers().detokenize = [](const v1::DetokenizeRequest&, v1::DetokenizeResponse* response) {
    response->set_text(std::string(6 << 20, 'a'));
    return grpc::Status::OK;
  };
  const auto response = client_.Detokenize({});
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->text().size(), size_t{6} << 20);
}

TEST_F(ClientTest, CallsEveryOtherMethod) {
  server_.handlers().tokenize = [](const v1::TokenizeRequest&, v1::TokenizeResponse* response) {
    response->add_token_ids(7);
    return grpc::Status::OK;
  };
  server_.handlers().policies = [](v1::ListAttentionPoliciesResponse* response) {
    response->add_policies()->set_name("dense");
    return grpc::Status::OK;
  };
  server_.handlers().compare = [](const v1::ComparePoliciesRequest&,
                                  grpc::ServerWriter<v1::ComparePoliciesResponse>* writer) {
    v1::ComparePoliciesResponse event;
    event.mutable_finished()->add_rows()->set_text("t");
    writer->Write(event);
    return grpc::Status::OK;
  };
  EXPECT_EQ(client_.Tokenize({})->token_ids(0), 7);
  EXPECT_EQ(client_.ListAttentionPolicies()->policies(0).name(), "dense");
  std::string text;
  const auto keep = [&](const v1::ComparePoliciesResponse& event) {
    text = event.finished().rows(0).text();
    return true;
  };
  EXPECT_THAT(client_.ComparePolicies({}, keep), IsOk());
  EXPECT_EQ(text, "t");
  EXPECT_EQ(*client_.CheckHealth(), grpc::health::v1::HealthCheckResponse::SERVING);
  EXPECT_THAT(client_.CheckHealth("no.such.Service"), StatusIs(absl::StatusCode::kNotFound, _));
}

}  // namespace
}  // namespace farspan
