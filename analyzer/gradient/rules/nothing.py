"""Operators through which no gradient flows: they count, compare, choose, or are flat almost everywhere."""

from analyzer.gradient.registry import not_differentiable

not_differentiable("the result does not depend on the values", "Shape", "Size", "ConstantOfShape", "EyeLike")
not_differentiable("the result is indices", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression", "Unique")
not_differentiable("the result is true or false", "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN")
not_differentiable("the result is true or false", "Less", "LessOrEqual", "Not", "Or", "Xor")
not_differentiable("flat almost everywhere: the gradient is 0", "Ceil", "Floor", "Round", "Sign", "Hardmax")
not_differentiable("whole numbers", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitCast")
not_differentiable("random", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike")
not_differentiable("random", "RandomUniform", "RandomUniformLike")
not_differentiable("made from whole numbers", "BlackmanWindow", "HammingWindow", "HannWindow")
not_differentiable("made from whole numbers", "MelWeightMatrix", "Constant")
not_differentiable("text or a file's bytes", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer")
not_differentiable("text or a file's bytes", "StringSplit", "TfIdfVectorizer")
