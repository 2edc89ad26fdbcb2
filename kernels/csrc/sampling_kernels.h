// Choosing tokens from logits.

namespace quire::QUIRE_TARGET {

inline Largest row_largest(const float* x, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kPiece = 1024;
  const Vec infinity = set1(__builtin_inff()), one = set1(1.0f);
  float best = -__builtin_inff();
  std::int64_t best_piece = begin;
  Vec poison = zero();
  for (std::int64_t piece = begin; piece < end; piece += kPiece) {
    const std::int64_t stop = piece + kPiece < end ? piece + kPiece : end;
    Vec most = set1(-__builtin_inff());
    for (std::int64_t i = piece; i < stop; i += kLanes) {
      Vec value = load_part(x, i, stop);
      // Lanes past the end repeat the first value rather than being zeros.
      if (stop - i < kLanes) value = keep_lanes(value, 0, static_cast<int>(stop - i), x[piece]);
      most = max(value, most);
      // Neither below infinity nor above zero: NaN.
      poison = max(poison, where_less(value, infinity, zero(), where_less(zero(), value, zero(), one)));
    }
    const float piece_best = largest(most);
    if (piece_best > best) {
      best = piece_best;
      best_piece = piece;
    }
  }
  if (largest(poison) > 0) return {__builtin_nanf(""), begin};
  std::int64_t index = best_piece;
  while (index < end - 1 && x[index] != best) ++index;
  return {best, index};
}

}  // namespace quire::QUIRE_TARGET
