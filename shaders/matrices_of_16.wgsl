// matrices of 16: cooperative matrices of 16 x 16; a part of the modules that multiply_matrices.wgsl is a part of.

const SIDE = 16u;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
