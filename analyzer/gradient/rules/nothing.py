"""Operators through which no gradient flows: they count, compare, choose, or are flat almost everywhere."""

from analyzer.gradient.registry import not_differentiable

not_differentiable("the result does not depend on the values", "Shape", "Size", "ConstantOfShape", "EyeLike")
not_differentiable("the result is indices", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression", "Unique")
not_differentiable("the result is boolean", "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN")
not_differentiable("the result is boolean", "Less", "LessOrEqual", "Not", "Or", "Xor")
not_differentiable("flat almost everywhere: the gradient is 0", "Ceil", "Floor", "Round", "Sign", "Hardmax")
not_differentiable("integers", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitCast")
not_differentiable("random", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike")
not_differentiable("random", "RandomUniform", "RandomUniformLike")
not_differentiable("made from integers", "BlackmanWindow", "HammingWindow", "HannWindow")
not_differentiable("made from integers", "MelWeightMatrix", "Constant")
not_differentiable("text or raw bytes", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer")
not_differentiable("text or raw bytes", "StringSplit", "TfIdfVectorizer")
