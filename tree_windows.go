package sbx

// nonblock is nothing: no path is that of a pipe here.
const nonblock = 0
