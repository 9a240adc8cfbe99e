// by four: an invocation handles four neighbouring numbers at a time, where sizes are multiples of four; a part of modules that come with
// by_one.wgsl too.

// How many numbers Numbers is.
const UNIT = 4u;

alias Numbers = vec4<f32>;
alias Ins = vec4<In>;
alias Outs = vec4<Out>;

fn stored_numbers(numbers: Numbers) -> Outs {
    return Outs(stored(numbers.x), stored(numbers.y), stored(numbers.z), stored(numbers.w));
}

fn total(numbers: Numbers) -> f32 {
    return (numbers.x + numbers.y) + (numbers.z + numbers.w);
}
