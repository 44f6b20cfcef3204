"""The web console: pages over the same Python API, rendered here, which read without JavaScript.

app         the program: its routes, its errors, what starts and ends with it
access      who may come in: tokens, cookies, hosts, forms of other sites
bodies      bounds on what is sent: its size and its time
console     what every page needs
thumbnails  small images, made on demand, with a bounded cache
pages       one module per subject
"""
