export default 'from a file beside it';
