"""The kernels as C declares them (kernels.h)."""
from libc.stdint cimport uint8_t


ctypedef const void *In         # numbers to be read, float or double
ctypedef const uint8_t *Places  # which pixel of a window, a byte each
ctypedef void *Out


cdef extern from "kernels.h" nogil:
    enum: VECTOR_BYTES
    int convolution_float(In x, In weight, In bias, Out y, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_double(In x, In weight, In bias, Out y, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_input_float(In g, In weight, Out x, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_input_double(In g, In weight, Out x, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_weight_float(In x, In g, Out weight, long n, long h, long w, long inputs, long outputs, int stride)
    int convolution_weight_double(In x, In g, Out weight, long n, long h, long w, long inputs, long outputs, int stride)
    void channel_sums_float(In x, Out sums, long pixels, long channels)
    void channel_sums_double(In x, Out sums, long pixels, long channels)
    void pixel_means_float(In x, Out means, long n, long pixels, long channels)
    void pixel_means_double(In x, Out means, long n, long pixels, long channels)
    void spread_means_float(In means, Out x, long n, long pixels, long channels)
    void spread_means_double(In means, Out x, long n, long pixels, long channels)
    int norm_float(In x, In weight, In bias, Out y, uint8_t *place, Out mean, Out scale, double eps, long n, long h, long w,
                   long channels, long window)
    int norm_double(In x, In weight, In bias, Out y, uint8_t *place, Out mean, Out scale, double eps, long n, long h, long w,
                    long channels, long window)
    int norm_gradient_float(In y_bar, In y, Places place, In x, In weight, In mean, In scale, Out x_bar, Out sum_gx,
                            Out sum_g, long n, long h, long w, long channels, long window)
    int norm_gradient_double(In y_bar, In y, Places place, In x, In weight, In mean, In scale, Out x_bar, Out sum_gx,
                             Out sum_g, long n, long h, long w, long channels, long window)
    int norm_gradient_back_float(In X, In W, In B, In y_bar, In y, Places place, In x, In weight, In mean, In scale,
                                 In sum_gx, In sum_g, Out y_bar_out, Out x_out, Out w_out, long n, long h, long w,
                                 long channels, long window)
    int norm_gradient_back_double(In X, In W, In B, In y_bar, In y, Places place, In x, In weight, In mean, In scale,
                                  In sum_gx, In sum_g, Out y_bar_out, Out x_out, Out w_out, long n, long h, long w,
                                  long channels, long window)
    int block_float(In x, In weight, In bias, In gamma, In beta, double eps, Out z, Out y, uint8_t *place, Out mean,
                  Out scale, long n, long h, long w, long inputs, long outputs, int stride, long window)
    int block_double(In x, In weight, In bias, In gamma, In beta, double eps, Out z, Out y, uint8_t *place, Out mean,
                  Out scale, long n, long h, long w, long inputs, long outputs, int stride, long window)
    int block_gradient_float(In y_bar, In more, In y, Places place, In x, In weight, In gamma, In z, In mean, In scale,
                           Out z_bar, Out x_bar, Out w_bar, Out gamma_bar, Out beta_bar, long n, long h, long w,
                           long inputs, long outputs, int stride, long window)
    int block_gradient_double(In y_bar, In more, In y, Places place, In x, In weight, In gamma, In z, In mean, In scale,
                           Out z_bar, Out x_bar, Out w_bar, Out gamma_bar, Out beta_bar, long n, long h, long w,
                           long inputs, long outputs, int stride, long window)
    int block_gradient_back_float(In X, In W, In G, In B, In y_bar, In y, Places place, In x, In weight, In gamma, In z,
                                In mean, In scale, In gamma_bar, In beta_bar, In z_bar, Out Z, Out room, Out y_bar_out,
                                Out x_out, Out w_out, Out gamma_out, Out z_out, long n, long h, long w, long inputs,
                                long outputs, int stride, long window)
    int block_gradient_back_double(In X, In W, In G, In B, In y_bar, In y, Places place, In x, In weight, In gamma, In z,
                                In mean, In scale, In gamma_bar, In beta_bar, In z_bar, Out Z, Out room, Out y_bar_out,
                                Out x_out, Out w_out, Out gamma_out, Out z_out, long n, long h, long w, long inputs,
                                long outputs, int stride, long window)
    int moments_float(In x, double *mean, double *covariance, long n, long planes, long h, long w, long stride)
    int moments_double(In x, double *mean, double *covariance, long n, long planes, long h, long w, long stride)
    int first_float(In x, In weight, In gamma, In beta, const double *mean, const double *covariance, double eps, Out y,
                    uint8_t *place, long n, long planes, long h, long w, long stride, long window, long channels)
    int first_double(In x, In weight, In gamma, In beta, const double *mean, const double *covariance, double eps, Out y,
                     uint8_t *place, long n, long planes, long h, long w, long stride, long window, long channels)
    int first_backward_float(In y_bar, In y, Places place, In x, In weight, In gamma, const double *mean,
                             const double *covariance, double eps, double *sums, Out w_bar, Out gamma_bar, Out beta_bar,
                             long n, long planes, long h, long w, long stride, long window, long channels)
    int first_backward_double(In y_bar, In y, Places place, In x, In weight, In gamma, const double *mean,
                              const double *covariance, double eps, double *sums, Out w_bar, Out gamma_bar, Out beta_bar,
                              long n, long planes, long h, long w, long stride, long window, long channels)
    int first_backward_back_float(In W, In G, In B, const double *sums, In y, Places place, In x, In weight, In gamma,
                                  const double *mean, const double *covariance, double eps, Out y_bar_out,
                                  Out weight_out, Out gamma_out, long n, long planes, long h, long w, long stride,
                                  long window, long channels)
    int first_backward_back_double(In W, In G, In B, const double *sums, In y, Places place, In x, In weight, In gamma,
                                   const double *mean, const double *covariance, double eps, Out y_bar_out,
                                   Out weight_out, Out gamma_out, long n, long planes, long h, long w, long stride,
                                   long window, long channels)
    int correlate_float(In y_bar, In y, Places place, In x, double *sums, long n, long planes, long h, long w, long stride,
                        long window, long channels)
    int correlate_double(In y_bar, In y, Places place, In x, double *sums, long n, long planes, long h, long w, long stride,
                         long window, long channels)
    int spread_float(In sums, In y, Places place, In x, Out out, long n, long planes, long h, long w, long stride,
                     long window, long channels)
    int spread_double(In sums, In y, Places place, In x, Out out, long n, long planes, long h, long w, long stride,
                      long window, long channels)


cdef extern from "kernels.h":
    ctypedef struct NeoMatrix:
        pass
    NeoMatrix matrix_kernels "matrix"
    const char *NEO_MATRIX
    bint is_amd()
