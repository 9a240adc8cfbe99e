// by one: an invocation handles one number at a time; a part of modules that come with by_four.wgsl too.

// How many numbers Numbers is.
const UNIT = 1u;

alias Numbers = f32;
alias Ins = In;
alias Outs = Out;

fn stored_numbers(numbers: Numbers) -> Outs {
    return stored(numbers);
}

fn total(numbers: Numbers) -> f32 {
    return numbers;
}
