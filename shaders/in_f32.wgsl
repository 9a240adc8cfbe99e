// in: the format in which a kernel's input activations are stored; a part of the modules that read activations.

alias In = f32;
