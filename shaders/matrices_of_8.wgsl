// matrices of 8: cooperative matrices of 8 x 8; a part of the modules that multiply_matrices.wgsl is a part of.

const SIDE = 8u;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
