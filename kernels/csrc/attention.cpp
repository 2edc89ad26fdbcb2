// Splits attention into items of a few queries, and items with many keys and few neighbours into chunks.
#include "ops.h"
#include "thread_pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace quire {
namespace {

// Rows (queries times heads) of an item: enough to repay transposing the keys once per item.
constexpr int kRowsPerItem = 64;
// Below so many items per thread, chunks become tasks of their own.
constexpr int kItemsPerThread = 3;
// Runs of items per thread, so that threads end together.
constexpr int kRunsPerThread = 4;

void check_blocks(const AttentionArgs& a) {
  for (int s = 0; s < a.num_seqs; ++s) {
    const int length = a.seq_lens[s], queries = a.query_start[s + 1] - a.query_start[s];
    if (queries == 0) continue;
    const int blocks = ceil_div(length, a.block_size);
    if (queries < 0 || length < queries || blocks > a.table_width) {
      throw std::out_of_range("sequence " + std::to_string(s) + " of " + std::to_string(length) +
                              " tokens has " + std::to_string(queries) + " queries and a table of " +
                              std::to_string(a.table_width) + " blocks");
    }
    const int first_seen = a.window > 0 ? std::max(0, length - queries - a.window + 1) : 0;
    for (int i = first_seen / a.block_size; i < blocks; ++i) {
      const std::int64_t block = a.block_tables[s * a.table_width + i];
      if (block < 0 || block >= a.num_blocks) {
        throw std::out_of_range("block " + std::to_string(block) + " is not in [0, " +
                                std::to_string(a.num_blocks) + ")");
      }
    }
  }
}

void check_sequences(const AttentionArgs& a) {
  for (int s = 0; s < a.num_seqs; ++s) {
    if (a.query_start[s + 1] < a.query_start[s]) {
      throw std::out_of_range("sequence " + std::to_string(s) + " ends before it begins");
    }
  }
}

std::vector<AttentionItem> make_items(const AttentionArgs& a) {
  const int group = a.num_heads / a.num_kv_heads;
  const int per_item = std::max(1, kRowsPerItem / group);
  std::vector<AttentionItem> items;
  for (int s = 0; s < a.num_seqs; ++s) {
    const int begin = a.query_start[s], end = a.query_start[s + 1];
    const int length = a.packed_stride ? end - begin : a.seq_lens[s];
    const int offset = length - end;  // position of row r is r + offset
    for (int first = begin; first < end; first += per_item) {
      const int count = std::min(per_item, end - first);
      const int position = first + offset;
      const int before = a.packed_stride ? a.window : a.window - 1;
      const int first_key = a.window > 0 ? std::max(0, position - before) : 0;
      int end_key = position + count;
      if (a.packed_stride) end_key = a.window > 0 ? std::min(length, end_key + a.window) : length;
      for (int head = 0; head < a.num_kv_heads; ++head) {
        AttentionItem item{};
        item.seq = s;
        item.kv_head = head;
        item.first_token = first;
        item.num_tokens = count;
        item.first_position = position;
        item.first_chunk = first_key / kKeyChunk;
        item.end_chunk = (end_key - 1) / kKeyChunk + 1;
        items.push_back(item);
      }
    }
  }
  return items;
}

int rows_of(const AttentionArgs& a, const AttentionItem& item) {
  return item.num_tokens * (a.num_heads / a.num_kv_heads);
}

void* scratch_for(const AttentionArgs& a, const AttentionItem& item, const KernelTable& table) {
  return thread_scratch(2, table.attention_scratch(a, rows_of(a, item)));
}

// One task per chunk, then one per item to merge its chunks.
void run_split(const AttentionArgs& a, std::vector<AttentionItem>& items, const KernelTable& table,
               std::int64_t work) {
  const std::size_t row_floats = static_cast<std::size_t>(ceil_div(a.head_size, kLanes) * kLanes + kLanes);
  std::size_t floats = 0;
  std::vector<std::size_t> offsets;
  for (const AttentionItem& item : items) {
    offsets.push_back(floats);
    floats += row_floats * static_cast<std::size_t>(rows_of(a, item) * (item.end_chunk - item.first_chunk));
  }
  float* partials = static_cast<float*>(thread_scratch(3, floats * sizeof(float)));
  std::vector<AttentionItem> chunks;
  for (std::size_t i = 0; i < items.size(); ++i) {
    AttentionItem& item = items[i];
    item.partials = partials + offsets[i];
    item.first_partial = item.first_chunk;
    for (int chunk = item.first_chunk; chunk < item.end_chunk; ++chunk) {
      AttentionItem one = item;
      one.first_chunk = chunk;
      one.end_chunk = chunk + 1;
      chunks.push_back(one);
    }
  }
  parallel_for(static_cast<std::int64_t>(chunks.size()), work, [&](std::int64_t i) {
    const AttentionItem& item = chunks[static_cast<std::size_t>(i)];
    table.attention(a, item, scratch_for(a, item, table));
  });
  parallel_for(static_cast<std::int64_t>(items.size()), work / 16, [&](std::int64_t i) {
    const AttentionItem& item = items[static_cast<std::size_t>(i)];
    table.attention_merge(a, item, scratch_for(a, item, table));
  });
}

}  // namespace

void paged_attention(const AttentionArgs& args) {
  args.packed_stride ? check_sequences(args) : check_blocks(args);
  const KernelTable& table = kernels();
  std::vector<AttentionItem> items = make_items(args);
  int longest = 0;
  std::int64_t work = 0;
  for (const AttentionItem& item : items) {
    const int chunks = item.end_chunk - item.first_chunk;
    longest = std::max(longest, chunks);
    const int known = args.packed_stride ? item.end_chunk * kKeyChunk : item.first_position + item.num_tokens;
    const std::int64_t keys = std::min(chunks * kKeyChunk, known);
    work = std::max(work, keys * args.head_size * rows_of(args, item));
  }
  const bool few = static_cast<int>(items.size()) < kItemsPerThread * num_threads();
  if (few && longest > 1 && num_threads() > 1) {
    run_split(args, items, table, work / longest);
    return;
  }
  // Neighbouring items go to one thread, so that it knows what comes next.
  const std::int64_t count = static_cast<std::int64_t>(items.size());
  const std::int64_t run = std::clamp<std::int64_t>(count / (kRunsPerThread * num_threads()), 1, 8);
  parallel_for(ceil_div(count, run), work * run, [&](std::int64_t task) {
    const std::int64_t begin = task * run, end = std::min(count, begin + run);
    for (std::int64_t i = begin; i < end; ++i) {
      AttentionItem& item = items[static_cast<std::size_t>(i)];
      item.next = i + 1 < end ? &item + 1 : nullptr;
      table.attention(args, item, scratch_for(args, item, table));
    }
  });
}

}  // namespace quire
